package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/livecheck"
	"vault-plugin-secrets-pipedream/internal/redact"
	"vault-plugin-secrets-pipedream/internal/usage"
)

// The names of what it needs to know, in the environment or on standard input.
const (
	nameAPIKey       = "PIPEDREAM_API_KEY"
	nameClientID     = "PIPEDREAM_CLIENT_ID"
	nameClientSecret = "PIPEDREAM_CLIENT_SECRET"
	nameProject      = "PIPEDREAM_PROJECT_ID"
	nameOrg          = "PIPEDREAM_ORG_ID"
	nameBase         = "PIPEDREAM_BASE_URL"
)

var names = []string{nameAPIKey, nameClientID, nameClientSecret, nameProject, nameOrg, nameBase}

// options are those of the program.
type options struct {
	config livecheck.Config
	report string // where to save it, without the extension; empty for nowhere
}

const usageHead = `pipedream-check looks at the real Pipedream with your own key, and says fact by fact whether it answers as the
secrets engine expects. The report ends with what the engine does not handle. It has no secret and no personal
datum, so you can attach it to a bug report.

It takes what it needs from the environment, never from its arguments:
  PIPEDREAM_CLIENT_ID, PIPEDREAM_CLIENT_SECRET   an OAuth client, or else
  PIPEDREAM_API_KEY                              a user's API key
  PIPEDREAM_PROJECT_ID                           a Connect project, "proj_..."; needs an OAuth client
  PIPEDREAM_ORG_ID                               the workspace of an API key
  PIPEDREAM_BASE_URL                             another address than https://api.pipedream.com/v1

Flags:
`

const usageTail = `
It only reads, unless -write is given. The Connect token of -write is for the owner of an account, or for an external
user that is made up. Such a user is removed in the end, even if you interrupt the program, with the account that you
connect for -link. That link is a secret: it is printed to standard error alone.

Some of its requests must fail: one has a wrong key, and some have
parameters that cannot be.

Exit codes:
  0    the engine handles everything that was seen
  1    it does not handle something; the report ends with it
  2    wrong options, no credentials, or the report cannot be saved
  3    no account could be looked at, so most of it was not seen
  130  it was interrupted; no report was saved
`

// parseOptions reads the command line, and what is secret from the environment or standard input. If help is requested,
// it prints the help and returns flag.ErrHelp.
func parseOptions(args []string, getenv func(string) string, stdin io.Reader, stdout io.Writer) (*options, error) {
	o := &options{config: livecheck.Config{Version: version}}
	flags := flag.NewFlagSet("pipedream-check", flag.ContinueOnError)
	fromStdin := flags.Bool("stdin", false, "read lines NAME=value from standard input in place of the environment")
	environments := flags.String("environment", "production,development", "`environments` of the Connect project to look at")
	flags.StringVar(&o.report, "report", "pipedream-report", "save the report as `name`.json and name.txt; empty for not at all")
	flags.IntVar(&o.config.PerMinute, "rate", 30, "most `requests` a minute, from 1 to 100; Pipedream allows 100")
	flags.DurationVar(&o.config.Timeout, "timeout", 20*time.Second, "how `long` one request may take")
	flags.DurationVar(&o.config.Watch, "watch", 0, "how `long` to wait until an account gets a new token")
	flags.BoolVar(&o.config.Write, "write", false, "make a Connect token that lives for a minute, too; needs a project")
	flags.StringVar(&o.config.LinkApp, "link", "", "make a Connect link for the app with this `slug`, too, and wait until you connect an account with it; needs -write")
	flags.DurationVar(&o.config.LinkWait, "link-wait", 5*time.Minute, "how `long` to wait for that")
	if err := usage.Parse(flags, args, stdout, usageHead, usageTail); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 { // which may be a secret
		return nil, errors.New("there is an argument that is no option; keys go into the environment or to -stdin")
	}
	o.config.Environments = strings.Split(*environments, ",")
	if *fromStdin {
		values, err := readValues(stdin)
		if err != nil {
			return nil, err
		}
		getenv = func(name string) string { return values[name] }
	}
	return o, o.take(getenv)
}

// take takes what is not on the command line.
func (o *options) take(get func(string) string) (err error) {
	c := &o.config
	c.APIKey, c.ClientID, c.ClientSecret = redact.Secret(get(nameAPIKey)), get(nameClientID), redact.Secret(get(nameClientSecret))
	c.ProjectID, c.OrgID = get(nameProject), get(nameOrg)
	base := get(nameBase)
	if base == "" {
		base = livecheck.DefaultBaseURL
	}
	if c.BaseURL, err = url.Parse(base); err != nil {
		return errors.New(nameBase + " is not a URL")
	}
	if c.Transport, err = api.NewTransport(""); err != nil {
		return err
	}
	return c.Check()
}

// maxInput bounds standard input.
const maxInput = 64 << 10

// readValues reads lines NAME=value. Its errors repeat nothing of them.
func readValues(r io.Reader) (map[string]string, error) {
	values := map[string]string{}
	lines := bufio.NewScanner(io.LimitReader(r, maxInput))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		if !ok || !isName(name) {
			return nil, fmt.Errorf("line %d of standard input is not NAME=value with a name that -help lists", n)
		}
		values[name] = strings.Trim(value, `"'`)
	}
	if lines.Err() != nil {
		return nil, errors.New("standard input cannot be read")
	}
	return values, nil
}

func isName(name string) bool {
	for _, known := range names {
		if name == known {
			return true
		}
	}
	return false
}
