package main

import (
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"time"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
	"vault-plugin-secrets-pipedream/internal/usage"
)

// keyVariable is the environment variable that holds the API key.
const keyVariable = "PIPEDREAM_SIM_API_KEY"

// options are the program's flags, with generated values for those that are missing.
type options struct {
	listen        string
	apiKey        string
	clientID      string
	clientSecret  string
	limit         int
	limitSet      bool // -limit was given; otherwise Pipedream's own limits apply
	orgID         string
	connectScopes bool
	tokensRead    bool // Connect tokens get credentials
	linkOrigin    string
	signedIn      bool
	accounts      string
	replay        string
	shortLife     time.Duration
	readyFile     string
	log           bool

	madeKey    bool // apiKey was generated
	madeClient bool // clientID and clientSecret were generated
}

const usageHead = `pipedream-sim serves a simulated Pipedream API on a loopback address. It is for tests and demos only.

The API is below /v1. Connect links lead to /_static/connect.html, where one click connects an account, or gives new credentials
to the one that &accountId= names. The proxy, /v1/connect/{project}/proxy/{url}, puts an account's credential into a request to
an app. It forwards to loopback addresses only. GET /app is such an app: it takes only current tokens of accounts, and says whose
it was given. GET /requests returns a log of all requests, without secrets, and lists those that contradict the documentation of
the API.

Flags:
`

const usageTail = `
The file for -accounts is a JSON list of objects. Only "id" is required:
  id, name            id ("apn_...") and name of the account
  app                 {"id", "name_slug", "name", "auth_type"}; auth_type is "oauth", "keys" or "none"
  project             Connect project, "proj_..."; without it, the account belongs to the workspace
  environment         part of the Connect project: "production" (the default) or "development"
  external_user_id    owner of the account in the Connect project
  oauth_app_id        custom OAuth client of the account, "oa_..."; shown as the id of its app
  credentials         object that is returned unchanged
  token_life          makes it an OAuth account whose access tokens live this long, for example "1h"; adds
                      oauth_access_token, oauth_client_id, oauth_refresh_token and oauth_uid to its credentials
  refresh_before      how long before its end a token is replaced, for example "5m" (default: a twelfth of its life)
  scopes              list of the OAuth scopes that its owner authorized (default "read" and "write")
  no_refresh          true: an expired token is still returned
  dead, unhealthy     true or false
  error               why it is dead or unhealthy
  no_credentials      true: it has no credentials
  omit_next_refresh   true: it has no next_refresh_at
  hide_expiry         true: its expires_at is null although it has a next_refresh_at
  plain_app           true: its app shows only id and name
  times               format of its times: "iso" (the default), "offset", "lower", "seconds" or "milliseconds"
  created_at, updated_at

Without -accounts, the workspace has the accounts apn_github, apn_sheets, apn_slack (with tokens that live for -short-life),
apn_stripe (with an API key) and apn_dead. The Connect project proj_demo has apn_alice1 and apn_bob1 in production. They belong
to the external users alice and bob, and use the OAuth client oa_demo. apn_alice2, a Slack account of alice, has no credentials. Connect links ending in &app=github&oauthAppId=oa_demo
connect more such accounts. Without the OAuth client, they have no credentials, as with Pipedream's own client. The proxy can
use those too.
`

// parseOptions parses the command line. If help is requested, it prints the help and returns flag.ErrHelp.
func parseOptions(args []string, stdout io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("pipedream-sim", flag.ContinueOnError)
	flags.StringVar(&o.listen, "listen", "127.0.0.1:0", "loopback `address` to listen on; port 0 means any free port")
	flags.StringVar(&o.apiKey, "api-key", "", "user API `key` to accept (default $"+keyVariable+", otherwise generated and printed)")
	flags.StringVar(&o.clientID, "client-id", "", "`id` of the workspace's OAuth client (by default generated and printed, like its secret)")
	flags.StringVar(&o.clientSecret, "client-secret", "", "`secret` of that client")
	flags.IntVar(&o.limit, "limit", 0, "total `requests` for accounts per minute; 0 means no limit (default Pipedream's own limits)")
	flags.StringVar(&o.orgID, "org-id", "", "workspace `id` that lists require with the user API key (default none)")
	flags.BoolVar(&o.connectScopes, "connect-scopes", false, "let tokens with Connect scopes read the accounts of the workspace")
	flags.BoolVar(&o.tokensRead, "connect-token-credentials", false, "let Connect tokens read credentials")
	flags.StringVar(&o.linkOrigin, "link-origin", "", "`origin` that Connect links lead to, \"https://host\" or \"http://127.0.0.1:port\" (default this API's)")
	flags.BoolVar(&o.signedIn, "signed-in", false, "whoever opens a Connect link is signed in to pipedream.com, as links of the development environment need")
	flags.StringVar(&o.accounts, "accounts", "", "JSON `file` with accounts to use instead of the demo's")
	flags.StringVar(&o.replay, "replay", "", "answer in the forms that are in this report, a JSON `file` of pipedream-check")
	flags.DurationVar(&o.shortLife, "short-life", 20*time.Second, "how long the tokens of apn_slack live")
	flags.StringVar(&o.readyFile, "ready-file", "", "`file` that contains the base URL while the API is running")
	flags.BoolVar(&o.log, "log", false, "print a line for each request to standard error")

	if err := usage.Parse(flags, args, stdout, usageHead, usageTail); err != nil {
		return o, err
	}
	flags.Visit(func(f *flag.Flag) { o.limitSet = o.limitSet || f.Name == "limit" })
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if (o.clientID == "") != (o.clientSecret == "") {
		return o, errors.New("-client-id and -client-secret go together")
	}
	if err := checkOrigin(o.linkOrigin); err != nil {
		return o, err
	}
	if o.limit < 0 {
		return o, errors.New("-limit must not be negative")
	}
	if o.shortLife <= 0 {
		return o, errors.New("-short-life must be above 0")
	}
	if o.apiKey == "" {
		o.apiKey = os.Getenv(keyVariable)
	}
	if o.apiKey == "" {
		o.apiKey, o.madeKey = "pdsim_key_"+rand.Text(), true
	}
	if o.clientID == "" {
		o.clientID, o.clientSecret, o.madeClient = "pdsim_client", "pdsim_secret_"+rand.Text(), true
	}
	return o, nil
}

// checkOrigin checks a value of -link-origin.
func checkOrigin(origin string) error {
	u, err := url.Parse(origin)
	switch {
	case origin == "":
		return nil
	case err != nil || u.Host == "" || origin != u.Scheme+"://"+u.Host:
		return errors.New("-link-origin must be a scheme and a host")
	case u.Scheme == "https":
		return nil
	case u.Scheme != "http":
		return errors.New("-link-origin must begin with https:// or http://")
	}
	if ip := net.ParseIP(u.Hostname()); ip == nil || !ip.IsLoopback() {
		return errors.New("-link-origin must have a loopback address, or https")
	}
	return nil
}

// linkPage returns how Connect links behave.
func (o *options) linkPage() pipedreamtest.LinkPage {
	return pipedreamtest.LinkPage{Origin: o.linkOrigin, SignedIn: o.signedIn}
}

// simulated returns the options of the simulated API.
func (o *options) simulated() []pipedreamtest.Option {
	opts := []pipedreamtest.Option{pipedreamtest.WithAPIKey(o.apiKey), pipedreamtest.WithOrgID(o.orgID)}
	if o.limitSet {
		opts = append(opts, pipedreamtest.WithLimit(o.limit))
	}
	if o.connectScopes {
		opts = append(opts, pipedreamtest.WithConnectScopesOnWorkspace())
	}
	if o.tokensRead {
		opts = append(opts, pipedreamtest.WithConnectTokenCredentials())
	}
	return opts
}
