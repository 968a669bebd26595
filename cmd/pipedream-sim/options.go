package main

import (
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// keyVariable is the environment variable with the API key.
const keyVariable = "PIPEDREAM_SIM_API_KEY"

// options are the program's flags, with what was made up for those that are left out.
type options struct {
	listen        string
	apiKey        string
	clientID      string
	clientSecret  string
	limit         int
	limitSet      bool // it was given: without it Pipedream's own limits hold
	orgID         string
	connectScopes bool
	accounts      string
	shortLife     time.Duration
	readyFile     string
	log           bool

	madeKey    bool // apiKey was made up
	madeClient bool // clientID and clientSecret were
}

const usageHead = `pipedream-sim serves a simulated Pipedream API on a loopback address. It is for tests and demos only.

The API is below /v1 of the address, and /_static/connect.html is the page of its Connect links, where one click connects an
account. GET /requests on the same address shows, without any secret, what was asked for so far, and what of that was not as
the API's documentation has it.

Flags:
`

const usageTail = `
The file of -accounts is a JSON list of objects. Only "id" is required:
  id, name            of the account, "apn_..."
  app                 {"id", "name_slug", "name", "auth_type"}; "oauth", "keys" or "none" is the last
  project             the Connect project, "proj_..."; without it, it is an account of the workspace
  environment         of the Connect project: "production" (the default) or "development"
  external_user_id    whose account it is in the Connect project
  oauth_app_id        the custom OAuth client it was connected with, "oa_..."; it shows as the id of its app
  credentials         an object, handed out as it is
  token_life          "1h": it is an OAuth account, and each access token lives that long; oauth_access_token,
                      oauth_client_id, oauth_refresh_token and oauth_uid are added to its credentials
  refresh_before      "5m": how long before its end a token is replaced; without it, a twelfth of its life
  no_refresh          true: a token that has expired is handed out still
  dead, unhealthy     true or false
  error               why it is dead or unhealthy
  no_credentials      true: it comes without credentials
  omit_next_refresh   true: it comes without next_refresh_at
  hide_expiry         true: its expires_at is null, beside a next_refresh_at
  plain_app           true: its app shows id and name alone
  times               how its times are written: "iso" (the default), "offset", "lower", "seconds" or "milliseconds"
  created_at, updated_at
Without -accounts there are apn_github, apn_sheets, apn_slack (whose tokens live for -short-life), apn_stripe (a key), apn_dead,
and in production of the Connect project proj_demo apn_alice1 and apn_bob1, of the external users alice and bob, connected with
the OAuth client oa_demo. A Connect link with &app=github&oauthAppId=oa_demo connects more of that kind; without the client
they come without credentials, as from Pipedream's own.
`

// parseOptions reads the command line. Asked for help, it prints it and returns flag.ErrHelp.
func parseOptions(args []string, stdout io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("pipedream-sim", flag.ContinueOnError)
	flags.StringVar(&o.listen, "listen", "127.0.0.1:0", "loopback `address` to listen on; port 0 takes a free one")
	flags.StringVar(&o.apiKey, "api-key", "", "user API `key` to accept (default $"+keyVariable+", else made up and printed)")
	flags.StringVar(&o.clientID, "client-id", "", "`id` of the workspace's OAuth client (default, with its secret, made up and printed)")
	flags.StringVar(&o.clientSecret, "client-secret", "", "`secret` of that client")
	flags.IntVar(&o.limit, "limit", 0, "`requests` for accounts a minute, all together; 0 for no limit (default Pipedream's own limits)")
	flags.StringVar(&o.orgID, "org-id", "", "`id` of the workspace that lists need with the user API key (default none)")
	flags.BoolVar(&o.connectScopes, "connect-scopes", false, "let the scopes of Connect read the accounts of the workspace")
	flags.StringVar(&o.accounts, "accounts", "", "JSON `file` of accounts, in place of the demo's")
	flags.DurationVar(&o.shortLife, "short-life", 20*time.Second, "how long the tokens of apn_slack live")
	flags.StringVar(&o.readyFile, "ready-file", "", "`file` that holds the base URL while the API can be reached")
	flags.BoolVar(&o.log, "log", false, "print a line for each request to standard error")

	// Errors are the caller's to print, and help goes where a pager can have it.
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			_, _ = io.WriteString(stdout, usageHead)
			flags.SetOutput(stdout)
			flags.PrintDefaults()
			_, _ = io.WriteString(stdout, usageTail)
		}
		return o, err
	}
	flags.Visit(func(f *flag.Flag) { o.limitSet = o.limitSet || f.Name == "limit" })
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if (o.clientID == "") != (o.clientSecret == "") {
		return o, errors.New("-client-id and -client-secret go together")
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

// simulated returns what the simulated API is told.
func (o *options) simulated() []pipedreamtest.Option {
	opts := []pipedreamtest.Option{pipedreamtest.WithAPIKey(o.apiKey), pipedreamtest.WithOrgID(o.orgID)}
	if o.limitSet {
		opts = append(opts, pipedreamtest.WithLimit(o.limit))
	}
	if o.connectScopes {
		opts = append(opts, pipedreamtest.WithConnectScopesOnWorkspace())
	}
	return opts
}
