package api

import (
	"slices"

	"github.com/embercast/embercast/auth"
)

// access says which credentials reach an operation. The table of operations × credentials is the access of each
// registered operation: it is enforced (authorize.go), written into the OpenAPI document, and tested cell by cell.
type access struct {
	// Scope lets secret keys in that have it; "" lets none in.
	Scope string
	// Rules lets in who stands under them: device keys, client tokens, and callers without credentials where the app
	// allows anonymous clients.
	Rules bool
	// Publishable lets publishable keys in, and nobody else.
	Publishable bool
	// Open needs no credential.
	Open bool
}

var (
	adminOnly   = access{}
	manage      = access{Scope: auth.ScopeManage}
	tokens      = access{Scope: auth.ScopeTokens}
	clients     = access{Scope: auth.ScopeClients}
	read        = access{Scope: auth.ScopeRead}
	data        = access{Scope: auth.ScopeData}
	publish     = access{Scope: auth.ScopePublish, Rules: true}
	publishable = access{Publishable: true}
	open        = access{Open: true}
)

// admits judges a caller that is known in the app.
func (a access) admits(p *auth.Principal) bool {
	switch p.Kind {
	case auth.PrincipalAdmin:
		return !a.Publishable
	case auth.PrincipalSecret:
		return a.Scope != "" && slices.Contains(p.Scopes, a.Scope)
	case auth.PrincipalDevice, auth.PrincipalClient:
		return a.Rules
	case auth.PrincipalPublishable:
		return a.Publishable
	}
	return a.Rules && p.Grant != nil
}

// names are the credentials that are admitted, as the OpenAPI document shows them.
func (a access) names() []string {
	if a.Open {
		return []string{"none"}
	}
	if a.Publishable {
		return []string{"publishable key"}
	}
	all := []string{"admin token"}
	if a.Scope != "" {
		all = append(all, "secret key with scope "+a.Scope)
	}
	if a.Rules {
		all = append(all, "device key under the rules", "client token under the rules", "no credential, under the rules, where the app's setting anonymous is true")
	}
	return all
}

// security is the same in OpenAPI's words.
func (a access) security() []map[string][]string {
	if a.Open {
		return nil
	}
	all := []map[string][]string{{"bearer": {}}}
	if a.Rules {
		all = append(all, map[string][]string{"token_in_url": {}}, map[string][]string{})
	}
	return all
}
