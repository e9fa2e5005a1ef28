// Package tenant knows who is who: tenants, their plans and peers (the
// catalogue), and whose identity or session something is (the directory). It
// does not know balances, sessions' contents or messages.
package tenant
