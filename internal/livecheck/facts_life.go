package livecheck

import "time"

const noExpiry Form = "no account has both last_refreshed_at and expires_at"

// lifeFacts are about the lives of tokens, by Pipedream's clock.
var lifeFacts = []fact{
	{
		name: "life.length", says: "Most OAuth tokens live for an hour or more.",
		expected: []Form{"an hour or more"}, handled: []Form{"10 minutes to an hour", "less than 10 minutes"},
		look: func(l *look) (s seen) {
			shortest := time.Duration(-1)
			for _, a := range l.walk().accounts() {
				begin, _ := parseTime(a["last_refreshed_at"])
				end, _ := parseTime(a["expires_at"])
				if begin.IsZero() || end.IsZero() {
					continue
				}
				life := end.Sub(begin)
				if shortest < 0 || life < shortest {
					shortest = max(life, 0)
				}
				switch {
				case life >= time.Hour-time.Minute:
					s.add("an hour or more")
				case life >= 10*time.Minute:
					s.add("10 minutes to an hour")
				default:
					s.add("less than 10 minutes")
				}
			}
			if len(s.forms) > 0 {
				s = s.with("minutes of the shortest", int(shortest.Minutes()))
			}
			return s.or(noExpiry)
		},
	},
	{
		name: "life.refresh", says: "next_refresh_at is some minutes before expires_at. expires_at can be null although there is a next_refresh_at.",
		expected: []Form{"next_refresh_at before expires_at", "next_refresh_at without expires_at", "neither"},
		handled:  []Form{"next_refresh_at after expires_at", "expires_at without next_refresh_at"},
		look: func(l *look) (s seen) {
			for _, a := range l.walk().accounts() {
				next, _ := parseTime(a["next_refresh_at"])
				end, _ := parseTime(a["expires_at"])
				switch {
				case next.IsZero() && end.IsZero():
					s.add("neither")
				case end.IsZero():
					s.add("next_refresh_at without expires_at")
				case next.IsZero():
					s.add("expires_at without next_refresh_at")
				case next.After(end):
					s.add("next_refresh_at after expires_at")
				default:
					s.add("next_refresh_at before expires_at")
				}
			}
			return s.or(l.walk().why())
		},
	},
	{
		name: "life.updated", says: "updated_at moves with each refresh of the token, and created_at does not.",
		expected: []Form{"updated_at is not before last_refreshed_at"}, handled: []Form{"updated_at is before last_refreshed_at"},
		look: func(l *look) (s seen) {
			for _, a := range l.walk().accounts() {
				updated, _ := parseTime(a["updated_at"])
				refreshed, _ := parseTime(a["last_refreshed_at"])
				switch {
				case updated.IsZero() || refreshed.IsZero():
				case updated.Before(refreshed.Add(-time.Minute)):
					s.add("updated_at is before last_refreshed_at")
				default:
					s.add("updated_at is not before last_refreshed_at")
				}
			}
			return s.or("no account has both")
		},
	},
	{
		name: "life.overdue", says: "next_refresh_at lies ahead: Pipedream refreshes in time.",
		expected: []Form{"ahead"}, handled: []Form{"past, on an account that is not healthy", "past"},
		look: func(l *look) seen { return l.whether("next_refresh_at", "ahead", "past") },
	},
	{
		name: "life.ended", says: "A token that is handed out has not ended. One of an account that is not healthy can stay ended. The engine refuses it.",
		expected: []Form{"not ended"}, handled: []Form{"ended, on an account that is not healthy", "ended"},
		look: func(l *look) seen { return l.whether("expires_at", "not ended", "ended") },
	},
	{
		name: "life.change", says: "A token changes at next_refresh_at, or by its end at the latest. The engine refuses one that has ended.",
		expected: []Form{"another token by next_refresh_at", "another token before the end of the old one"},
		handled:  []Form{"another token after the end of the old one", "the same token after its end"},
		look:     (*look).watch,
	},
}

// whether compares a time of each account that has credentials with the time by Pipedream's clock.
func (l *look) whether(name string, ahead, past Form) (s seen) {
	const slack = 2 * time.Minute
	now, n := l.now(), 0
	for _, a := range l.walk().accounts() {
		t, _ := parseTime(a[name])
		switch {
		case t.IsZero() || !isSet(a["credentials"]):
		case t.After(now.Add(-slack)):
			s.add(ahead)
		case string(a["healthy"]) == "false" || string(a["dead"]) == "true":
			s.add(past + ", on an account that is not healthy")
		default:
			n++
			s.add(past)
		}
	}
	if n > 0 {
		s = s.with("accounts", n)
	}
	return s.or("no account with credentials has " + Form(name))
}

// watched is an account whose token is about to change.
type watched struct {
	id        string
	account   members
	next, end time.Time
}

// watch waits until the token that changes first does so.
func (l *look) watch() seen {
	if l.config.Watch == 0 {
		return unseen("the check did not wait for it (-watch)")
	}
	now, first := l.now(), watched{}
	for _, a := range l.walk().accounts() {
		w := watched{id: textOf(a["id"]), account: a}
		w.next, _ = parseTime(a["next_refresh_at"])
		w.end, _ = parseTime(a["expires_at"])
		if w.end.IsZero() || !isSet(a["credentials"]) || string(a["dead"]) == "true" {
			continue
		}
		if w.next.IsZero() || w.next.After(w.end) {
			w.next = w.end
		}
		if first.id == "" || w.next.Before(first.next) {
			first = w
		}
	}
	if first.id == "" || first.next.After(now.Add(l.config.Watch)) {
		return unseen("no token is due in the time that the check waits")
	}
	const late = 20 * time.Second
	for _, step := range []struct {
		at   time.Time
		form Form
	}{
		{first.next.Add(late), "another token by next_refresh_at"},
		{first.end, "another token before the end of the old one"},
		{first.end.Add(2 * time.Minute), "another token after the end of the old one"},
	} {
		if step.at.After(now.Add(l.config.Watch + 3*time.Minute)) {
			return unseen("the token did not change in the time that the check waits")
		}
		if !l.wait(step.at.Sub(l.now())) {
			return unseen(l.stopped)
		}
		q := l.getQuery(l.bearerWith(scopeAny), []string{"accounts", first.id}, "include_credentials", "true")
		q.often = true
		got := l.ask(q)
		a, _ := readAccount(got)
		switch {
		case !got.ok():
			return unseen(got.why())
		case !sameSecret(first.account, a):
			return as(step.form)
		}
	}
	return as("the same token after its end")
}
