package httpd

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/gofiber/fiber/v2"
)

// Remote returns the address of the caller. Behind a trusted proxy that is the last address in X-Forwarded-For which
// is not a trusted proxy's own (its port is not known, and 0): what stands before it, anybody may have written.
func (s *Server) Remote(c *fiber.Ctx) netip.AddrPort {
	peer, err := netip.ParseAddrPort(c.Context().RemoteAddr().String())
	if err != nil {
		return netip.AddrPort{} // a pipe has none
	}
	peer = netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
	if !s.trusted(peer.Addr()) {
		return peer
	}
	hops := strings.Split(c.Get(fiber.HeaderXForwardedFor), ",")
	for _, hop := range slices.Backward(hops) {
		hop, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			return peer
		}
		peer = netip.AddrPortFrom(hop.Unmap(), 0)
		if !s.trusted(hop.Unmap()) {
			return peer
		}
	}
	return peer
}

func (s *Server) trusted(a netip.Addr) bool {
	for _, network := range s.cfg.TrustedProxies {
		if network.Contains(a) {
			return true
		}
	}
	return false
}
