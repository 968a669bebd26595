// Command connect-app is an application that works with its users' own GitHub accounts. A user who has connected none gets
// a button for that, and comes back to the application afterwards. A user who has one sees it, and can disconnect it. The
// application has no rights of its own in Vault, and never sees a Pipedream key: it uses the token of the user it serves.
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
	timeout = time.Minute
	// linkCookie has the link_id of the user's latest link. It opens nothing: only the same user can ask what the link did.
	linkCookie = "link"
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
	routes.HandleFunc("POST /disconnect", a.disconnect)
	// Another site must not have a user's browser make links, or disconnect anything.
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

// linkStatus asks what a link did: open, connected, ended or unknown. The answer comes as soon as it is known, or after 10 s.
func (a *app) linkStatus(ctx context.Context, client *vault.Client, link string) (string, error) {
	secret, err := client.Logical().ReadWithDataWithContext(ctx, a.mount+"/connect/"+a.role, map[string][]string{
		"link_id": {link}, "wait": {"10s"},
	})
	if err != nil {
		return "", err
	}
	status, _ := secret.Data["link_status"].(string)
	return status, nil
}

func (a *app) home(w http.ResponseWriter, r *http.Request) {
	client, ok := a.user(w, r)
	if !ok {
		return
	}
	// That the browser came back proves nothing. The engine knows what the link did.
	if link, err := r.Cookie(linkCookie); err == nil && r.URL.Query().Has("connected") {
		if status, err := a.linkStatus(r.Context(), client, link.Value); err != nil || status != "connected" {
			log.Printf("the link of a user who came back is %q: %v", status, err) //nolint:gosec // quoted
		}
	}
	data, err := a.credentials(r.Context(), client)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	switch {
	case errors.Is(err, errNoAccount):
		_, _ = fmt.Fprint(w, `<form method="post" action="/connect"><button id="connect">Connect your GitHub account</button></form>`)
	case err != nil:
		log.Printf("the credentials cannot be read: %v", err)
		http.Error(w, "GitHub cannot be reached just now", http.StatusBadGateway)
	default:
		// Here the application would call GitHub, with data["oauth_access_token"]. The token stays on the server.
		id := html.EscapeString(fmt.Sprint(data["pipedream_account_id"]))
		_, _ = fmt.Fprintf(w, `<p>You work with the account <b id="account">%s</b>.</p><form method="post" action="/disconnect">`+
			`<button id="disconnect" name="account" value="%s">Disconnect it</button></form>`, id, id)
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
	id, _ := secret.Data["link_id"].(string)
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // Secure wherever the application itself is
		Name: linkCookie, Value: id, Path: "/", HttpOnly: true, Secure: a.url.Scheme == "https", SameSite: http.SameSiteLaxMode,
	})
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	http.Redirect(w, r, link, http.StatusSeeOther) //nolint:gosec // Vault made it, for this user
}

// disconnect disconnects the account that its user saw. Vault refuses an account of somebody else.
func (a *app) disconnect(w http.ResponseWriter, r *http.Request) {
	client, ok := a.user(w, r)
	if !ok {
		return
	}
	_, err := client.Logical().DeleteWithDataWithContext(r.Context(), a.mount+"/connect/"+a.role, map[string][]string{
		"account": {r.FormValue("account")},
	})
	if err != nil {
		log.Printf("an account cannot be disconnected: %v", err)
		http.Error(w, "the account cannot be disconnected just now", http.StatusBadGateway)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}
