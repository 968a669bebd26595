// Command connect-app is an application that works with its users' own GitHub accounts. Whoever has connected none gets a
// button for that, and comes back to the application when it is done. It has no rights of its own in Vault, and never sees
// a Pipedream key: all that it does there, it does with the token of the user whom it serves.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"html"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	vault "github.com/hashicorp/vault/api"
)

const (
	// patience is how long a user who comes back waits for the account that they have just connected.
	patience = 5 * time.Second
	timeout  = time.Minute
)

type app struct {
	auth  string   // path of userpass in Vault
	mount string   // path of the engine in Vault
	role  string   // each user's own account
	url   *url.URL // where browsers reach this application: allowed_redirect_hosts of the role has its host
}

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "`address` to listen on")
	public := flag.String("url", "", "`URL` by which browsers reach it (default http:// and the address)")
	a := &app{}
	flag.StringVar(&a.auth, "auth", "userpass", "`path` of Vault's userpass")
	flag.StringVar(&a.mount, "mount", "pipedream", "`path` of the secrets engine")
	flag.StringVar(&a.role, "role", "github", "`name` of the role for each user's own account")
	flag.Parse()
	if err := a.run(*listen, *public); err != nil {
		log.Fatal(err)
	}
}

func (a *app) run(listen, public string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	if public == "" {
		public = "http://" + listener.Addr().String()
	}
	if a.url, err = url.Parse(public); err != nil {
		return err
	}
	routes := http.NewServeMux()
	routes.HandleFunc("GET /{$}", a.home)
	routes.HandleFunc("POST /connect", a.connect)
	// Another site must not have a user's browser make links.
	server := &http.Server{Handler: http.NewCrossOriginProtection().Handler(routes), ReadHeaderTimeout: timeout}
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	fmt.Println(a.url)
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// login is Vault for the user who sent a request. So that this program can be tried by itself, it asks for a name and a
// password of Vault's userpass. An application whose users log in by OIDC has the token of their identity provider instead:
//
//	client.Logical().Write("auth/jwt/login", map[string]any{"role": "people", "jwt": idToken})
func (a *app) login(r *http.Request) (*vault.Client, error) {
	name, password, ok := r.BasicAuth()
	if !ok || strings.ContainsAny(name, "/.%") { // which would be another path
		return nil, errors.New("nobody is logged in")
	}
	client, err := vault.NewClient(vault.DefaultConfig()) // at VAULT_ADDR
	if err != nil {
		return nil, err
	}
	client.ClearToken() // not that of whoever started this program
	secret, err := client.Logical().WriteWithContext(r.Context(), "auth/"+a.auth+"/login/"+name, map[string]any{"password": password})
	if err != nil {
		return nil, err
	}
	client.SetToken(secret.Auth.ClientToken)
	return client, nil
}

// user logs the sender of a request in, or answers that they must.
func (a *app) user(w http.ResponseWriter, r *http.Request) (client *vault.Client, ok bool) {
	client, err := a.login(r)
	if err != nil {
		w.Header().Set("WWW-Authenticate", `Basic realm="Vault"`)
		http.Error(w, "log in first", http.StatusUnauthorized)
	}
	return client, err == nil
}

var errNoAccount = errors.New("the user has connected no account")

// credentials are those of the user's own account.
func (a *app) credentials(ctx context.Context, client *vault.Client) (map[string]any, error) {
	secret, err := client.Logical().ReadWithContext(ctx, a.mount+"/creds/"+a.role)
	var answer *vault.ResponseError
	switch {
	case errors.As(err, &answer) && answer.StatusCode == http.StatusBadRequest && strings.Contains(answer.Error(), "has no healthy account"):
		return nil, errNoAccount
	case err != nil:
		return nil, err
	default:
		return secret.Data, nil
	}
}

// awaited is credentials for a user who says that they have just connected an account. Only the read tells whether that is so.
func (a *app) awaited(ctx context.Context, client *vault.Client) (map[string]any, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for until := time.Now().Add(patience); ; time.Sleep(500 * time.Millisecond) {
		data, err := a.credentials(ctx, client)
		if !errors.Is(err, errNoAccount) || time.Now().After(until) {
			return data, err
		}
	}
}

func (a *app) home(w http.ResponseWriter, r *http.Request) {
	client, ok := a.user(w, r)
	if !ok {
		return
	}
	read := a.credentials
	if r.URL.Query().Has("connected") {
		read = a.awaited
	}
	data, err := read(r.Context(), client)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	switch {
	case errors.Is(err, errNoAccount):
		_, _ = fmt.Fprint(w, `<form method="post" action="/connect"><button id="connect">Connect your GitHub account</button></form>`)
	case err != nil:
		log.Printf("the credentials cannot be read: %v", err)
		http.Error(w, "GitHub cannot be reached just now", http.StatusBadGateway)
	default:
		// Here the application would call GitHub, with data["oauth_access_token"]. The token stays on the server.
		_, _ = fmt.Fprintf(w, `<p>You work with the account <b id="account">%s</b>.</p>`, html.EscapeString(fmt.Sprint(data["pipedream_account_id"])))
	}
}

// connect sends the browser to a link that was made for its user, and made now: it is kept nowhere, and is in no page.
func (a *app) connect(w http.ResponseWriter, r *http.Request) {
	client, ok := a.user(w, r)
	if !ok {
		return
	}
	back := a.url.JoinPath("/")
	failed, connected := *back, *back
	failed.RawQuery, connected.RawQuery = "failed", "connected"
	secret, err := client.Logical().WriteWithContext(r.Context(), a.mount+"/connect/"+a.role, map[string]any{
		"success_redirect_uri": connected.String(),
		"error_redirect_uri":   failed.String(),
		"expires_in":           "10m",
	})
	if err != nil {
		log.Printf("no link can be made: %v", err)
		http.Error(w, "no account can be connected just now", http.StatusBadGateway)
		return
	}
	link, _ := secret.Data["connect_link_url"].(string)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	http.Redirect(w, r, link, http.StatusSeeOther) //nolint:gosec // Vault made it, for this user
}
