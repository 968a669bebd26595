package pipedreamtest

import (
	"net/http"
	"strconv"
	"strings"
)

// Gateway is something between a client and Pipedream that answers in Pipedream's place, in a form of its own: a proxy, a
// load balancer, an API gateway or the framework of one.
type Gateway struct {
	Name        string
	ContentType string
	// Body is what it answers. In it, {status} stands for the status and {text} for the status in words.
	Body string
}

// GatewayStatuses returns the statuses that gateways answer with. A 200 is that of a page for maintenance, or of another
// host.
func GatewayStatuses() []int {
	return []int{200, 400, 401, 402, 403, 404, 405, 407, 410, 413, 421, 422, 429, 451, 500, 501, 502, 503, 504, 530}
}

// Gateways returns the forms in which gateways are known to answer.
func Gateways() []Gateway {
	const json, html, plain = "application/json", "text/html", "text/plain"
	return []Gateway{
		{"AWS API Gateway", json, `{"message":"Forbidden"}`},
		{"AWS API Gateway, no route", json, `{"message":"Missing Authentication Token"}`},
		{"AWS API Gateway, authorizer", json, `{"Message":"User is not authorized to access this resource with an explicit deny"}`},
		{"AWS load balancer", html, "<html>\r\n<head><title>{status} {text}</title></head>\r\n<body>\r\n<center><h1>{status} {text}</h1></center>\r\n</body>\r\n</html>\r\n"},
		{"Kong", json, `{"message":"no Route matched with those values","request_id":"5f2f6b1f1d4d4a3c"}`},
		{"Kong, OAuth 2.0", json, `{"error":"invalid_token","error_description":"The access token is invalid or has expired"}`},
		{"nginx", html, "<html>\r\n<head><title>{status} {text}</title></head>\r\n<body>\r\n<center><h1>{status} {text}</h1></center>\r\n<hr><center>nginx/1.27.4</center>\r\n</body>\r\n</html>\r\n"},
		{"HAProxy", html, "<html><body><h1>{status} {text}</h1>\nRequest forbidden by administrative rules.\n</body></html>\n\n"},
		{"Traefik", plain, "{status} page not found\n"},
		{"Envoy", plain, "RBAC: access denied"},
		{"Envoy, as JSON", json, `{"code":{status},"message":"RBAC: access denied"}`},
		{"Squid", html, `<!DOCTYPE html PUBLIC "-//W3C//DTD HTML 4.01//EN"><html><head><title>ERROR: The requested URL could not be retrieved</title></head></html>`},
		{"Cloudflare, HTML", html, `<!DOCTYPE html><html lang="en-US"><head><title>Attention Required! | Cloudflare</title></head><body></body></html>`},
		{"Cloudflare, plain", plain, "error code: 1020"},
		{"Cloudflare, JSON", json, `{"success":false,"errors":[{"code":10000,"message":"Authentication error"}],"messages":[],"result":null}`},
		{"Azure Front Door", json, `{"error":{"code":"{status}","message":"{text}"}}`},
		{"Azure API Management", json, `{"statusCode":{status},"message":"Access denied due to invalid subscription key."}`},
		{"Google Cloud", json, `{"error":{"code":{status},"message":"{text}","status":"PERMISSION_DENIED","details":[]}}`},
		{"Apigee", json, `{"fault":{"faultstring":"{text}","detail":{"errorcode":"policies.ratelimit.QuotaViolation"}}}`},
		{"Spring", json, `{"timestamp":"2026-11-28T17:24:24.000+00:00","status":{status},"error":"{text}","path":"/v1/accounts"}`},
		{"RFC 9457", "application/problem+json", `{"type":"about:blank","title":"{text}","status":{status}}`},
		{"an empty object", json, `{}`},
		{"an empty body", plain, ``},
		{"a list", json, `[{"message":"{text}"}]`},
		{"an empty list", json, `[]`},
		{"a string", json, `"{text}"`},
		{"null", json, `null`},
	}
}

// Fault returns the fault that has the gateway answer every request with that status.
func (g Gateway) Fault(status int) Fault {
	body := strings.NewReplacer("{status}", strconv.Itoa(status), "{text}", http.StatusText(status)).Replace(g.Body)
	return Fault{Status: status, Header: http.Header{"Content-Type": {g.ContentType}}, Body: body, Empty: body == ""}
}
