// Command go calls an API again and again with the token of a connected account. It has the token from Vault, reads it
// again before the lease ends, and has it replaced when the API refuses it.
//
// It needs VAULT_ADDR and VAULT_TOKEN in its environment, and a policy with
//
//	path "pipedream/creds/apn_XehyZPr" { capabilities = ["read"] }
//	path "pipedream/refresh/apn_XehyZPr" { capabilities = ["update"] }
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	vault "github.com/hashicorp/vault/api"
)

const (
	account = "apn_XehyZPr"
	api     = "https://api.github.com/user"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	client, err := vault.NewClient(vault.DefaultConfig())
	if err != nil {
		log.Fatal(err)
	}
	tokens := &tokens{vault: client.Logical()}
	for ctx.Err() == nil {
		wait := time.Second
		if err := call(ctx, tokens); err != nil {
			log.Print(err)
			wait = 10 * time.Second
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// errRefused says that the API did not take the token.
var errRefused = errors.New("the API refuses the token")

// call does the work once. When the API refuses the token it tries once more, with another.
func call(ctx context.Context, t *tokens) error {
	token, err := t.get(ctx)
	if err != nil {
		return err
	}
	err = use(ctx, token)
	if !errors.Is(err, errRefused) {
		return err
	}
	if token, err = t.replace(ctx); err != nil {
		return err
	}
	return use(ctx, token)
}

func use(ctx context.Context, token string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, api, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	switch resp.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusUnauthorized:
		return errRefused
	default:
		return fmt.Errorf("the API answers %s", resp.Status)
	}
}

// tokens keeps the token that Vault handed out last. Where goroutines share one, guard it with a mutex.
type tokens struct {
	vault *vault.Logical
	token string
	again time.Time // when to read again
	end   time.Time // of the lease
}

// get returns a token that is good for now.
func (t *tokens) get(ctx context.Context) (string, error) {
	if time.Now().Before(t.again) {
		return t.token, nil
	}
	err := t.read(ctx)
	if err != nil && time.Now().Before(t.end) {
		log.Printf("going on with the token there is: %v", err)
		t.again = time.Now().Add(time.Second)
		return t.token, nil
	}
	return t.token, err
}

// replace has the engine fetch the token anew, for one that was refused before its end.
func (t *tokens) replace(ctx context.Context) (string, error) {
	if _, err := t.vault.WriteWithContext(ctx, "pipedream/refresh/"+account, nil); err != nil {
		return "", err
	}
	err := t.read(ctx)
	return t.token, err
}

func (t *tokens) read(ctx context.Context) error {
	now := time.Now()
	secret, err := t.vault.ReadWithContext(ctx, "pipedream/creds/"+account)
	if err != nil {
		return err
	}
	token, ok := secret.Data["oauth_access_token"].(string)
	if !ok {
		return errors.New("the account has no oauth_access_token")
	}
	lease := time.Duration(secret.LeaseDuration) * time.Second
	t.token, t.again, t.end = token, now.Add(lease*8/10), now.Add(lease)
	return nil
}
