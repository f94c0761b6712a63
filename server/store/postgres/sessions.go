package postgres

import (
	"github.com/jackc/pgx/v5"

	"github.com/embercast/embercast/server/store/sqlstore"
)

// queueSessions writes what the session changes of a batch come to: one statement over arrays for each kind, however
// many sessions there are.
func queueSessions(b *pgx.Batch, c *sqlstore.Changes) {
	if apps, clients := sessionKeys(c.Dropped); len(apps) > 0 {
		b.Queue(`DELETE FROM sessions AS s USING unnest($1::bigint[], $2::text[]) AS g (app_uid, client_id)
			WHERE s.app_uid = g.app_uid AND s.client_id = g.client_id`, apps, clients)
	}
	if apps, clients := sessionKeys(c.Emptied); len(apps) > 0 {
		b.Queue(`DELETE FROM subscriptions AS s USING unnest($1::bigint[], $2::text[]) AS g (app_uid, client_id)
			WHERE s.app_uid = g.app_uid AND s.client_id = g.client_id`, apps, clients)
	}
	queueUnsubscribed(b, c.Unsubscribed)
	queueRows(b, c.Rows)
	queueSubscriptions(b, c.Subscriptions)
	queueSettled(b, c.Settled)
}

func sessionKeys(keys []sqlstore.SessionKey) (apps []int64, clients []string) {
	for _, k := range keys {
		apps, clients = append(apps, int64(k.App)), append(clients, k.ClientID)
	}
	return apps, clients
}

func queueUnsubscribed(b *pgx.Batch, all []sqlstore.SubscriptionKey) {
	var apps []int64
	var clients, filters []string
	for _, k := range all {
		apps, clients, filters = append(apps, int64(k.App)), append(clients, k.ClientID), append(filters, k.Filter)
	}
	if len(apps) > 0 {
		b.Queue(`DELETE FROM subscriptions AS s USING unnest($1::bigint[], $2::text[], $3::text[]) AS g (app_uid, client_id, filter)
			WHERE s.app_uid = g.app_uid AND s.client_id = g.client_id AND s.filter = g.filter`, apps, clients, filters)
	}
}

func queueRows(b *pgx.Batch, all []sqlstore.SessionOf) {
	var apps, expiries, cursorSeqs, cursorParts, nextPacketIDs, fallenOut []int64
	var ended []*int64
	var clients, subjects []string
	var wills, windows, inbound [][]byte
	for _, o := range all {
		r := o.Row
		apps, clients, subjects = append(apps, int64(o.App)), append(clients, o.ClientID), append(subjects, r.Subject)
		var at *int64
		if !r.EndedAt.IsZero() {
			us := r.EndedAt.UnixMicro()
			at = &us
		}
		expiries, ended, wills = append(expiries, int64(r.Expiry)), append(ended, at), append(wills, r.Will)
		seq, part := sqlstore.Signed(r.Cursor)
		cursorSeqs, cursorParts = append(cursorSeqs, seq), append(cursorParts, part)
		windows, inbound = append(windows, notNil(r.Window)), append(inbound, notNil(r.Inbound))
		nextPacketIDs, fallenOut = append(nextPacketIDs, int64(r.NextPacketID)), append(fallenOut, r.FallenOut)
	}
	if len(apps) > 0 {
		b.Queue(`INSERT INTO sessions (app_uid, client_id, subject, expiry, ended_at, will, cursor_seq, cursor_part,
			"window", inbound, next_packet_id, fallen_out)
			SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bytea[], $7::bigint[],
			$8::bigint[], $9::bytea[], $10::bytea[], $11::bigint[], $12::bigint[])
			ON CONFLICT (app_uid, client_id) DO UPDATE SET subject = excluded.subject, expiry = excluded.expiry,
			ended_at = excluded.ended_at, will = excluded.will, cursor_seq = excluded.cursor_seq, cursor_part = excluded.cursor_part,
			"window" = excluded."window", inbound = excluded.inbound, next_packet_id = excluded.next_packet_id,
			fallen_out = excluded.fallen_out`,
			apps, clients, subjects, expiries, ended, wills, cursorSeqs, cursorParts, windows, inbound, nextPacketIDs, fallenOut)
	}
}

func queueSubscriptions(b *pgx.Batch, all []sqlstore.SubscriptionOf) {
	var apps, filterIDs, options, ids, beginsSeqs, beginsParts []int64
	var clients, filters, retainedAfter []string
	for _, o := range all {
		r := &o.Row
		apps, clients, filters = append(apps, int64(o.App)), append(clients, o.ClientID), append(filters, r.Filter)
		filterIDs, options, ids = append(filterIDs, r.FilterID), append(options, int64(r.Options)), append(ids, int64(r.ID))
		seq, part := sqlstore.Signed(r.Begins)
		beginsSeqs, beginsParts = append(beginsSeqs, seq), append(beginsParts, part)
		retainedAfter = append(retainedAfter, r.RetainedAfter)
	}
	if len(apps) > 0 {
		b.Queue(`INSERT INTO subscriptions (app_uid, client_id, filter, filter_id, options, subscription_id,
			begins_seq, begins_part, retained_after)
			SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
			$8::bigint[], $9::text[])
			ON CONFLICT (app_uid, client_id, filter) DO UPDATE SET filter_id = excluded.filter_id, options = excluded.options,
			subscription_id = excluded.subscription_id, begins_seq = excluded.begins_seq, begins_part = excluded.begins_part,
			retained_after = excluded.retained_after`,
			apps, clients, filters, filterIDs, options, ids, beginsSeqs, beginsParts, retainedAfter)
	}
}

func queueSettled(b *pgx.Batch, all []sqlstore.SettledOf) {
	var apps, filters, seqs, parts []int64
	for _, o := range all {
		seq, part := sqlstore.Signed(o.Position)
		apps, filters, seqs, parts = append(apps, int64(o.App)), append(filters, o.FilterID), append(seqs, seq), append(parts, part)
	}
	if len(apps) > 0 {
		b.Queue(`DELETE FROM pending AS p USING unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[]) AS g (app_uid, filter_id, seq, part)
			JOIN filters AS f ON f.filter_id = g.filter_id AND f.app_uid = g.app_uid
			WHERE p.filter_id = f.filter_id AND p.seq = g.seq AND p.part = g.part`, apps, filters, seqs, parts)
	}
}
