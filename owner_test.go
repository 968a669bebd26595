package pipedream

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// A reader of a role gets a token that was issued while the account was theirs,
// whatever happens to accounts, the engine and its configuration at the same time.
// Each seed has other random events.
func TestEveryTokenGoesToItsOwner(t *testing.T) {
	t.Parallel()
	for seed := range 40 {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			t.Parallel()
			connectBubble(t, func(_ *testing.T, m *mount) {
				o := &owners{mount: m, rand: rand.New(rand.NewPCG(uint64(seed), 1)), of: map[string]string{}} //nolint:gosec // dice
				o.connect()
				for range 150 {
					o.roll()
					time.Sleep(time.Duration(o.rand.IntN(2000)) * time.Millisecond)
				}
				o.under.Wait()
				require.NotZero(m, o.served)
			})
		})
	}
}

// owners records to whom each token was issued.
type owners struct {
	*mount
	rand  *rand.Rand
	under sync.WaitGroup // reads and passes under way

	accounts []string

	mu     sync.Mutex        // guards the fields below
	of     map[string]string // by token
	served int
}

var (
	someUsers = []string{"alice", "bob", "carol"}
	someApps  = []string{"github", "slack"}
)

func (o *owners) connect() {
	o.sim.DeleteAccount("apn_alice")
	o.sim.DeleteAccount("apn_bob")
	for _, user := range someUsers {
		for _, app := range someApps {
			o.role(app+"-"+user, map[string]any{"app": app, "external_user_id": user})
		}
	}
	for i := range 5 {
		a := connectAccount(accountName(i), someUsers[i%len(someUsers)])
		a.App = pipedreamtest.App{ID: "app_" + someApps[i%2], Slug: someApps[i%2]}
		a.TokenLife, a.NoRefresh = time.Duration(3+o.rand.IntN(100))*time.Minute, true
		a.OmitNextRefresh, a.OmitOwner = o.rand.IntN(2) == 0, o.rand.IntN(2) == 0
		o.sim.SetAccount(a)
		o.accounts = append(o.accounts, a.ID)
		o.issued(a.ID, a.ExternalUserID)
	}
	slow := func() time.Duration { return time.Duration(o.rand.IntN(2)*o.rand.IntN(1500)) * time.Millisecond }
	o.slow(slow(), slow(), slow())
}

// roll makes one random event happen.
func (o *owners) roll() {
	user, app := someUsers[o.rand.IntN(len(someUsers))], someApps[o.rand.IntN(len(someApps))]
	account := o.accounts[o.rand.IntN(len(o.accounts))]
	switch o.rand.IntN(16) {
	case 0, 1, 2, 3, 4, 5:
		o.under.Go(func() { o.reads(app, user) })
	case 6:
		o.under.Go(func() { _ = ignoreAnswer(o.write("refresh/"+app+"-"+user, nil)) })
	case 7:
		o.under.Go(func() { _ = ignoreAnswer(o.read("creds/" + account)) })
	case 8: // it becomes another user's, with a new token
		o.sim.Update(account, func(a *pipedreamtest.Account) { a.ExternalUserID, a.UpdatedAt = user, time.Now() })
		o.sim.Rotate(account)
		o.issued(account, user)
	case 9:
		o.sim.Update(account, func(a *pipedreamtest.Account) { a.OmitOwner = !a.OmitOwner })
	case 10:
		o.under.Go(o.periodic)
	case 11:
		o.under.Wait()
		o.start()
	case 12:
		o.sim.Update(account, func(a *pipedreamtest.Account) { a.Dead = !a.Dead })
	case 13:
		_, _ = o.write("config", map[string]any{"environment": "development", "verify": false})
		o.under.Go(func() { o.reads(app, user) })
		_, _ = o.write("config", map[string]any{"environment": "production", "verify": false})
	case 14:
		for _, account := range o.accounts {
			o.under.Go(func() { _ = ignoreAnswer(o.read("creds/" + account)) })
		}
	default:
		time.Sleep(time.Duration(o.rand.IntN(40)) * time.Minute)
	}
}

func (o *owners) issued(account, user string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.of[o.sim.Token(account)] = user
}

func (o *owners) reads(app, user string) {
	for _, path := range []string{"creds/", "static-creds/"} {
		resp, err := o.b.HandleRequest(o.Context(), &logical.Request{
			Operation: logical.ReadOperation, Path: path + app + "-" + user, Storage: o.storage, MountPoint: "pipedream/",
		})
		if err != nil {
			continue
		}
		token := resp.Data["oauth_access_token"].(string)
		o.mu.Lock()
		owner := o.of[token]
		o.served++
		o.mu.Unlock()
		if owner != user || !strings.EqualFold(app, fmt.Sprint(resp.Data["pipedream_app"])) {
			o.Errorf("%s was served a token of %q with %v for one with %s", user, owner, resp.Data["pipedream_app"], app)
		}
	}
}

// An account belongs to the app of a role only if the answer says so.
func TestAnAccountWithoutAnAppBelongsToNoUser(t *testing.T) {
	for name, app := range map[string]string{"none": `null`, "text": `"github"`, "empty": `{}`, "another": `{"id":"app_2","name_slug":"gitlab"}`} {
		t.Run(name, func(t *testing.T) {
			connectBubble(t, func(_ *testing.T, m *mount) {
				m.role("alices", map[string]any{"app": "github", "external_user_id": "alice"})
				m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusOK, Body: fmt.Sprintf(
					`{"page_info":{},"data":[{"id":"apn_x","external_id":"alice","healthy":true,"app":%s,"credentials":{"a":"b"}}]}`, app)})
				_, err := m.read("creds/alices")
				m.refused(err, http.StatusBadRequest, "no healthy account")
			})
		})
	}
}
