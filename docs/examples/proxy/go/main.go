// Command go calls an app again and again as an external user, through Pipedream's proxy, with a Connect token from
// Vault.
//
// It needs VAULT_ADDR and VAULT_TOKEN in its environment, and a policy with
//
//	path "pipedream/static-creds/slack" { capabilities = ["read"] }
//	path "pipedream/refresh/slack" { capabilities = ["update"] }
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	vault "github.com/hashicorp/vault/api"
)

const (
	role = "slack"
	app  = "https://slack.com/api/auth.test"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	client, err := vault.NewClient(vault.DefaultConfig())
	if err != nil {
		log.Fatal(err)
	}
	p := &proxy{vault: client.Logical()}
	for ctx.Err() == nil {
		wait := time.Second
		if err := p.call(ctx); err != nil {
			log.Print(err)
			wait = 3 * time.Second
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// proxy keeps what Vault handed out last. If goroutines share one, guard it with a lock.
type proxy struct {
	vault  *vault.Logical
	secret map[string]any
	again  time.Time // when to read again
}

func (p *proxy) read(ctx context.Context) error {
	now := time.Now()
	secret, err := p.vault.ReadWithContext(ctx, "pipedream/static-creds/"+role)
	if err != nil {
		return err
	}
	ttl, err := secret.Data["ttl"].(json.Number).Int64()
	p.secret, p.again = secret.Data, now.Add(time.Duration(ttl)*time.Second)
	return err
}

func (p *proxy) field(name string) string { return fmt.Sprint(p.secret[name]) }

// use sends the request through the proxy, and returns the status of the answer.
func (p *proxy) use(ctx context.Context) (status int, err error) {
	target := fmt.Sprintf("%s/connect/%s/proxy/%s?external_user_id=%s&account_id=%s", p.field("pipedream_api_url"), p.field("pipedream_project_id"),
		base64.URLEncoding.EncodeToString([]byte(app)), url.QueryEscape(p.field("pipedream_external_user_id")), p.field("pipedream_account_id"))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+p.field("connect_token"))
	req.Header.Set("x-pd-environment", p.field("pipedream_environment"))
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = answer.Body.Close() }()
	_, err = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, err
}

// call does the work once. When the token or the account is gone, it tries once more, with what there is now.
func (p *proxy) call(ctx context.Context) error {
	if !time.Now().Before(p.again) {
		if err := p.read(ctx); err != nil {
			return err
		}
	}
	status, err := p.use(ctx)
	if err == nil && (status == http.StatusUnauthorized || status == http.StatusNotFound) {
		if _, err := p.vault.WriteWithContext(ctx, "pipedream/refresh/"+role, nil); err != nil {
			return err
		}
		if err := p.read(ctx); err != nil {
			return err
		}
		status, err = p.use(ctx)
	}
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("the proxy answers %d", status)
	}
	return err
}
