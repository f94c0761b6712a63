package httpd

import "github.com/gofiber/fiber/v2"

const landingPage = `<!doctype html><html lang="en"><meta charset="utf-8"><title>Embercast</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:36rem;margin:4rem auto;padding:0 1rem;color:#222}
h1{color:#c2410c;margin-bottom:0}a{color:#c2410c}li{margin:.4rem 0}code{background:#f4f0ec;padding:.1rem .3rem;border-radius:4px}
@media(prefers-color-scheme:dark){body{background:#1a1614;color:#eee}code{background:#2b2522}a,h1{color:#fb923c}}</style>
<h1>Embercast</h1><p>A realtime backend: MQTT is its wire, JSON its data, SQL its memory. This server is running.</p>
<ul><li><a href="/examples/">Examples</a>: a browser page that chats over MQTT</li>
<li><a href="/docs">REST documentation</a>, from <a href="/openapi.json">/openapi.json</a></li>
<li>MQTT over WebSocket at <code>/mqtt</code> and <code>/mqtt/{app}</code></li>
<li>Health: <a href="/healthz">/healthz</a>, <a href="/readyz">/readyz</a></li></ul></html>
`

func landing(c *fiber.Ctx) error {
	c.Set(fiber.HeaderContentSecurityPolicy, "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	c.Type("html", "utf-8")
	return c.SendString(landingPage)
}
