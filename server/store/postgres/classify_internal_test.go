package postgres

import (
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker"
)

// TestClassify: what waiting may mend is told from what it does not (CONTRACT section 4).
func TestClassify(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]error{
		"53100": broker.ErrStoreRefused,     // disk_full
		"25006": broker.ErrStoreRefused,     // read_only_sql_transaction
		"53200": broker.ErrStoreUnavailable, // out_of_memory
		"53300": broker.ErrStoreUnavailable, // too_many_connections
		"57P01": broker.ErrStoreUnavailable, // admin_shutdown
		"57P02": broker.ErrStoreUnavailable, // crash_shutdown
		"57P03": broker.ErrStoreUnavailable, // cannot_connect_now
		"08006": broker.ErrStoreUnavailable, // connection_failure
		"40001": broker.ErrStoreUnavailable, // serialization_failure
		"40P01": broker.ErrStoreUnavailable, // deadlock_detected
		"58030": broker.ErrStoreRefused,     // io_error
		"XX001": broker.ErrStoreRefused,     // data_corrupted
		"XX002": broker.ErrStoreRefused,     // index_corrupted
	} {
		require.ErrorIs(t, classify(&pgconn.PgError{Code: code}), want, code)
	}
}
