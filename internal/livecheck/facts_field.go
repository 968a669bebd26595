package livecheck

import "encoding/json"

// field is a member of an account.
type field struct {
	in, name          string
	form              func(json.RawMessage) Form
	expected, handled []Form
}

// odd are the forms that the engine takes for nothing where a text is expected, which does no harm.
var odd = []Form{absent, null, emptyText, number, boolean, list, object, textList}

// oddTimes are times that the engine reads, besides those that are documented.
var oddTimes = []Form{absent, null, rfc3339, lowerTime, offsetTime, unixSeconds, unixMillis}

// lostTimes are those that it takes for nothing, which does no harm but for expires_at.
var lostTimes = []Form{emptyText, number, numberText, otherTime, boolean, object}

// fields are those of an account that are known.
var fields = []field{
	{"", "id", anyTextForm, []Form{anyText}, nil},
	{"", "name", anyTextForm, []Form{anyText, null, absent}, odd},
	{"", "external_id", anyTextForm, []Form{anyText, null, absent}, []Form{emptyText}},
	{"", "healthy", formOf, []Form{boolean}, []Form{absent, null, booleanText, number, numberText}},
	{"", "dead", formOf, []Form{boolean, null}, []Form{absent, booleanText, number, numberText}},
	{"", "error", anyTextForm, []Form{anyText, null, absent}, odd},
	{"", "created_at", timeForm, []Form{iso}, append(oddTimes, lostTimes...)},
	{"", "updated_at", timeForm, []Form{iso}, append(oddTimes, lostTimes...)},
	{"", "expires_at", timeForm, []Form{iso, null, absent}, oddTimes},
	{"", "last_refreshed_at", timeForm, []Form{iso, null, absent}, append(oddTimes, lostTimes...)},
	{"", "next_refresh_at", timeForm, []Form{iso, null, absent}, append(oddTimes, lostTimes...)},
	{"", "authorized_scopes", listForm, []Form{textList, absent, null}, append([]Form{anyText}, odd...)},
	{"", "credentials", formOf, []Form{object, absent, null}, nil},
	{"", "app", formOf, []Form{object}, []Form{absent, null}},
	{"app", "id", anyTextForm, []Form{anyText, null}, odd},
	{"app", "name_slug", anyTextForm, []Form{anyText}, []Form{absent, null, emptyText}},
	{"app", "name", anyTextForm, []Form{anyText}, odd},
	{"app", "auth_type", anyTextForm, []Form{anyText, null}, odd},
	{"app", "description", anyTextForm, []Form{anyText, null, absent}, odd},
	{"app", "img_src", anyTextForm, []Form{anyText}, odd},
	{"app", "custom_fields_json", embeddedForm, []Form{jsonText, null, absent}, append([]Form{anyText}, odd...)},
	{"app", "categories", listForm, []Form{textList, absent}, append([]Form{anyText}, odd...)},
	{"app", "featured_weight", formOf, []Form{number, absent}, append([]Form{anyText, numberText}, odd...)},
	{"app", "connect", formOf, []Form{object, absent, null}, append([]Form{anyText}, odd...)},
	{"app", "scope_profiles", listForm, []Form{list, textList, absent, null}, append([]Form{anyText}, odd...)},
}

// path is the name of the field in the report.
func (f *field) path() string {
	if f.in == "" {
		return f.name
	}
	return f.in + "." + f.name
}

// of returns the field of an account.
func (f *field) of(account members) (raw json.RawMessage, ok bool) {
	if f.in != "" {
		inner, isObject := objectOf(account[f.in])
		return inner[f.name], isObject
	}
	return account[f.name], true
}

// fieldFacts has a fact for each field, and one for all others.
var fieldFacts = append(knownFields(), fact{
	name: "field.others", says: "New fields appear without notice. The engine ignores them.",
	expected: []Form{"only known fields"}, handled: []Form{"unknown fields"},
	look: func(l *look) seen {
		accounts := l.walk().accounts()
		if len(accounts) == 0 {
			return unseen(l.walk().why())
		}
		unknown := map[string]bool{}
		for _, a := range accounts {
			app, _ := objectOf(a["app"])
			for in, m := range map[string]members{"": a, "app": app} {
				for name := range m {
					if !isKnown(in, name) {
						unknown[in+" "+name] = true
					}
				}
			}
		}
		if len(unknown) == 0 {
			return as("only known fields")
		}
		return as("unknown fields").with("unknown names", len(unknown))
	},
})

func isKnown(in, name string) bool {
	for _, f := range fields {
		if f.in == in && f.name == name {
			return true
		}
	}
	return false
}

func knownFields() (facts []fact) {
	for i := range fields {
		f := &fields[i]
		facts = append(facts, fact{
			name: "field." + f.path(), says: "The form of " + f.path() + " in an account.",
			expected: f.expected, handled: f.handled,
			look: func(l *look) (s seen) {
				for _, a := range l.walk().accounts() {
					if raw, ok := f.of(a); ok {
						s.add(f.form(raw))
					}
				}
				return s.or(l.walk().why())
			},
		})
	}
	return facts
}
