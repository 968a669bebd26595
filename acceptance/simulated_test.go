package acceptance

import (
	"time"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// These are the ids of the two accounts that most tests read.
const (
	githubID = "apn_github"
	stripeID = "apn_stripe"
)

// stripeKey is a credential that never expires.
const stripeKey = "sk_simulated_7d1f0a93c2"

// github is an account whose token lives for an hour.
func github() pipedreamtest.Account {
	return pipedreamtest.Account{
		ID:        githubID,
		Name:      "octocat",
		App:       pipedreamtest.App{ID: "app_OrZhaO", Slug: "github", Name: "GitHub", AuthType: "oauth"},
		TokenLife: time.Hour,
	}
}

// githubWith is github with a change.
func githubWith(change func(*pipedreamtest.Account)) pipedreamtest.Account {
	account := github()
	change(&account)
	return account
}

// stripe is an account whose key never expires.
func stripe() pipedreamtest.Account {
	return pipedreamtest.Account{
		ID:          stripeID,
		Name:        "Acme payments",
		App:         pipedreamtest.App{ID: "app_XBxhAl", Slug: "stripe", Name: "Stripe", AuthType: "keys"},
		Credentials: map[string]any{"api_key": stripeKey},
	}
}
