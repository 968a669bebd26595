package pipedream

import (
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-pipedream/internal/api"
)

// redirectHostPattern matches the name or address of a host, with or without a port.
var redirectHostPattern = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*|\[[0-9a-f:]+\])(:[1-9][0-9]{0,4})?$`)

const (
	maxRedirectHosts = 20
	maxRedirectURI   = 2048
	maxHost          = 260 // bytes of a host's name with its port
)

func validateRedirectHosts(hosts []string) error {
	if len(hosts) > maxRedirectHosts {
		return badRequest("allowed_redirect_hosts must not have more than %d entries", maxRedirectHosts)
	}
	for _, host := range hosts {
		if !isRedirectHost(host) {
			return badRequest("allowed_redirect_hosts must be names of hosts in lower case, such as app.example.com or localhost:3000, without https:// and without *")
		}
	}
	return nil
}

func isRedirectHost(host string) bool {
	if len(host) > maxHost || !redirectHostPattern.MatchString(host) {
		return false
	}
	u, err := url.Parse("https://" + host)
	if err != nil {
		return false
	}
	if _, err := netip.ParseAddr(u.Hostname()); strings.HasPrefix(host, "[") && err != nil {
		return false
	}
	_, err = strconv.ParseUint(u.Port(), 10, 16)
	return u.Port() == "" || err == nil
}

// redirectURI returns the URI in a field, as it is sent to Pipedream; empty for none.
// It fails if its host is not one of those that are allowed.
func redirectURI(data *framework.FieldData, field string, allowed []string) (string, error) {
	raw := data.Get(field).(string)
	if raw == "" {
		return "", nil
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || len(raw) > maxRedirectURI || u.Opaque != "" || u.Hostname() == "": // not shown: what is in it may be for the page alone
		return "", badRequest("%s is not a URL with a host, of %d characters at most", field, maxRedirectURI)
	case u.User != nil:
		return "", badRequest("%s must not contain a user name or password", field)
	case u.Scheme != "https" && (u.Scheme != "http" || !api.IsLoopback(u.Hostname())):
		return "", badRequest("%s must begin with https://; http:// is only for loopback addresses", field)
	case !isAllowed(u, allowed):
		return "", badRequest("%s leads to a host that is not in the role's allowed_redirect_hosts", field)
	}
	return u.String(), nil
}

// isAllowed reports whether the host of u is one of these. Ports must match too, except
// on a loopback address that is allowed without one: a program on the user's own machine
// listens on any free port.
func isAllowed(u *url.URL, hosts []string) bool {
	host := strings.ToLower(u.Host)
	standard := map[string]string{"https": ":443", "http": ":80"}[u.Scheme]
	return slices.ContainsFunc(hosts, func(allowed string) bool {
		return strings.TrimSuffix(allowed, standard) == strings.TrimSuffix(host, standard) ||
			api.IsLoopback(u.Hostname()) && allowed == strings.TrimSuffix(host, ":"+u.Port())
	})
}
