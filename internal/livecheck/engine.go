package livecheck

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/pace"
)

// engineFacts let the engine's own client read answers that came. So whatever this package does not look at, but the
// engine trips over, shows here.
var engineFacts = []fact{
	{
		name: "engine.list", says: "The engine reads each page of the list: all accounts, the cursor and total_count.",
		expected: []Form{"all of it"}, handled: []Form{"all but total_count"},
		look: func(l *look) (s seen) {
			w := l.walk()
			for _, p := range w.pages {
				s.add(l.readsPage(p))
			}
			if len(w.pages) == 0 && w.bad.ok() {
				s.add(l.readsPage(w.bad))
			}
			return s.or(w.why())
		},
	},
	{
		name: "engine.account", says: "The engine reads each account that is asked for alone: its credentials, its end and its owner.",
		expected: []Form{"all of it"},
		look: func(l *look) (s seen) {
			for _, sample := range l.samples() {
				got := l.alone(textOf(sample["id"]), "true")
				if got.status != 0 && got.problem == "" {
					s.add(l.readsAccount(got, textOf(sample["id"])))
				}
			}
			return s.or(l.walk().why())
		},
	},
	{
		name: "engine.no_account", says: "The engine takes the answer for an unknown account for what it is.",
		expected: []Form{"for an unknown account"},
		look: func(l *look) seen {
			got := l.alone(l.names.account, "true")
			if got.status == 0 || got.problem == throttled {
				return unseen(got.problem)
			}
			_, err := l.engine(got).Account(l.unhurried(), l.names.account)
			switch kind := api.KindOf(err); kind {
			case api.NotFound:
				return as("for an unknown account")
			case api.Forbidden, api.Rejected:
				return as("for a refusal of this account")
			case api.KeyRefused, api.Unauthorized:
				return as("for a refused key")
			case api.BadAnswer:
				return as("for an answer that makes no sense")
			default:
				return as("for an outage")
			}
		},
	},
	{
		name: "engine.token", says: "The engine reads the answer for an access token.",
		expected: []Form{"all of it"},
		look: func(l *look) seen {
			if l.config.ClientID == "" {
				return unseen(noClient)
			}
			got := l.ask(l.tokenQuery(scopeAny))
			if !got.ok() {
				return unseen(got.why())
			}
			if _, err := l.engineWith(got, l.fake(`{"id":"apn_1"}`)).Account(l.unhurried(), "apn_1"); err != nil {
				return as("not at all")
			}
			return as("all of it")
		},
	},
}

// readsPage compares a page with what the engine makes of it.
func (l *look) readsPage(p *page) Form {
	read, err := l.engine(p.answer).Page(l.unhurried(), "")
	if err != nil {
		return "not at all"
	}
	total, known := p.total()
	switch {
	case len(read.Accounts) < p.count:
		return "not all accounts"
	case read.Next != p.next() || formOf(p.info["end_cursor"]) == number:
		return "not the cursor"
	case known && read.Total != total:
		return "all but total_count"
	}
	for i, a := range read.Accounts {
		if form := readsMembers(a, p.accounts[i]); form != "all of it" {
			return form
		}
	}
	return "all of it"
}

// readsAccount compares the answer for an account with what the engine makes of it.
func (l *look) readsAccount(got *answer, id string) Form {
	read, err := l.engine(got).Account(l.unhurried(), id)
	if err != nil {
		return "not at all"
	}
	a, _ := readAccount(got)
	return readsMembers(read, a)
}

func readsMembers(read *api.Account, a members) Form {
	credentials, _ := objectOf(a["credentials"])
	end, _ := parseTime(a["expires_at"])
	switch {
	case len(read.Credentials) != len(credentials):
		return "not the credentials"
	case isSet(a["expires_at"]) && read.ExpiresAt.IsZero(), !end.IsZero() && read.ExpiresAt.Sub(end).Abs() > time.Second:
		return "not its end"
	case isSet(a["external_id"]) && read.ExternalID != textOf(a["external_id"]), isSet(a["external_id"]) && read.ExternalID == "":
		return "not its owner"
	}
	return "all of it"
}

// engine returns the engine's client in front of an answer.
func (l *look) engine(got *answer) *api.Client {
	return l.engineWith(l.fake(`{"access_token":"t","token_type":"Bearer","expires_in":3600}`), got)
}

// fake is an answer of this package's.
func (*look) fake(body string) *answer {
	return &answer{status: http.StatusOK, header: http.Header{"Content-Type": {"application/json"}}, body: []byte(body)}
}

// engineWith returns the engine's client in front of these answers. It sends nothing.
func (l *look) engineWith(token, got *answer) *api.Client {
	c := api.Config{
		BaseURL: &url.URL{Scheme: "http", Host: "127.0.0.1", Path: "/v1"}, ClientID: "i", ClientSecret: "s",
		ProjectID: l.at.project, Environment: l.at.environment, Timeout: time.Minute,
	}
	return api.New(l.unhurried(), c, &replies{token: token, other: got}, pace.NewBudget(0), backoff.NewHoldOffs(), deaf{}, hclog.NewNullLogger)
}

// unhurried is the context of what sends nothing. An interrupted check still reads what came.
func (l *look) unhurried() context.Context { return context.WithoutCancel(l.ctx) }

// replies is a transport that gives answers that came before.
type replies struct{ token, other *answer }

// RoundTrip implements [http.RoundTripper].
func (r *replies) RoundTrip(req *http.Request) (*http.Response, error) {
	got := r.other
	if req.Method == http.MethodPost {
		got = r.token
	}
	return &http.Response{StatusCode: got.status, Header: got.header, Body: io.NopCloser(bytes.NewReader(got.body)), Request: req}, nil
}

// deaf observes nothing.
type deaf struct{}

func (deaf) Sent()                                 {}
func (deaf) Answered(string, time.Duration, error) {}
