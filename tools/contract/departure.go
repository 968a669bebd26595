package contract

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// Departure is a way in which something differs from the document on purpose.
type Departure struct {
	Name string
	Why  string

	covers func(Finding) bool
}

// Settle returns what is wrong with findings: those that no departure covers, and the departures that cover none. A
// departure that is no longer one must not stay in the list.
func Settle(findings []Finding, departures []Departure) (problems []string) {
	used := map[string]bool{}
	for _, f := range findings {
		covered := false
		for _, d := range departures {
			if d.covers(f) {
				used[d.Name], covered = true, true
			}
		}
		if problem := fmt.Sprintf("%s, %s: %s", f.Operation, f.Part, f.Text); !covered && !slices.Contains(problems, problem) {
			problems = append(problems, problem)
		}
	}
	for _, d := range departures {
		if !used[d.Name] {
			problems = append(problems, "no departure any more: "+d.Name)
		}
	}
	return problems
}

// onPath covers the paths that begin like this and that the document does not have.
func onPath(prefixes ...string) func(Finding) bool {
	return func(f Finding) bool {
		_, path, _ := strings.Cut(f.Operation, " ")
		return f.Part == Path && slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(path, prefix) })
	}
}

// shaped is what tells the forms of answers apart.
type shaped struct {
	Data  any `json:"data"`
	Error any `json:"error"`
}

// form decodes an answer. One that is no JSON object has neither member.
func (f Finding) form() (form shaped) {
	_ = json.Unmarshal(f.Answer.Body, &form)
	return form
}

// failed covers an answer with a status that the document does not describe, in the form of an error of the API.
func failed(f Finding) bool {
	return f.Part == Status && f.Answer.Status >= http.StatusBadRequest && f.form().Error != nil
}

// failedWith200 covers an error in an answer that claims success.
func failedWith200(f Finding) bool {
	return f.Part != Request && f.Answer.Status == http.StatusOK && f.form().Error != nil
}

// wrapped covers an answer that has an object where the document has none, or a list.
func wrapped(f Finding) bool {
	_, object := f.form().Data.(map[string]any)
	return f.Part == Answer && object
}

// inAnswer covers what a pattern matches of the findings about answers.
func inAnswer(pattern string) func(Finding) bool {
	matches := regexp.MustCompile(pattern).MatchString
	return func(f Finding) bool { return f.Part == Answer && matches(f.Text) }
}
