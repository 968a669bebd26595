package livecheck

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// reportFormat is the version of the report's form.
const reportFormat = 1

// Report is what was seen. Nothing in it comes out of an answer but counts, statuses and lengths of time.
type Report struct {
	Program     string   `json:"program"`
	Format      int      `json:"format"`
	Day         string   `json:"day"`
	Real        bool     `json:"real"` // whether api.pipedream.com was asked
	Key         string   `json:"key"`  // what it was asked with
	Places      []string `json:"places"`
	Requests    int      `json:"requests"`
	Interrupted bool     `json:"interrupted,omitempty"`
	Left        bool     `json:"left,omitempty"` // an external user that was made up could not be removed
	Results     []Result `json:"results"`
	NotHandled  []string `json:"not_handled"` // names of facts
}

// Result is what was seen of one fact at one place.
type Result struct {
	Name      string         `json:"name"`
	Where     string         `json:"where,omitempty"` // empty for what is the same at all places
	Fact      string         `json:"fact"`
	Verdict   Verdict        `json:"verdict"`
	Expected  []Form         `json:"expected"`
	Seen      []Form         `json:"seen,omitempty"`
	Numbers   map[string]int `json:"numbers,omitempty"`
	Why       Form           `json:"why,omitempty"` // there was nothing to see
	Unhandled []Form         `json:"unhandled,omitempty"`
}

// Count returns how many results have a verdict.
func (r *Report) Count(v Verdict) (n int) {
	for _, result := range r.Results {
		if result.Verdict == v {
			n++
		}
	}
	return n
}

// SawAccounts reports whether an account was looked at.
func (r *Report) SawAccounts() bool {
	return slices.ContainsFunc(r.Results, func(result Result) bool { return result.Name == "field.id" && slices.Contains(result.Seen, anyText) })
}

// JSON returns the report as JSON.
func (r *Report) JSON() []byte {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil { // it has nothing that does not marshal
		panic(err)
	}
	return append(text, '\n')
}

// Write writes the report for people. It ends with what the engine does not handle.
func (r *Report) Write(w io.Writer) error {
	var b strings.Builder
	host := "the real Pipedream"
	if !r.Real {
		host = "another address than api.pipedream.com"
	}
	fmt.Fprintf(&b, "%s, %s: %d requests to %s with an %s\n", r.Program, r.Day, r.Requests, host, r.Key)
	if r.Interrupted {
		b.WriteString("The check was interrupted, so most of it was not seen.\n")
	}
	if r.Left {
		b.WriteString("The external user that the check made up, pipedream-check-…, could not be removed: does the client have connect:users:write?\n")
	}
	places := append([]string{""}, r.Places...)
	for _, place := range places {
		r.writePlace(&b, place)
	}
	fmt.Fprintf(&b, "\n%d as expected, %d different, %d learned, %d not seen, %d not handled\n",
		r.Count(AsExpected), r.Count(Different), r.Count(Learned), r.Count(NotSeen), r.Count(NotHandled))
	if r.Count(NotHandled) == 0 {
		b.WriteString("\nThe engine handles everything that was seen.\n")
	} else {
		b.WriteString("\nThe engine does not handle:\n")
		for _, result := range r.Results {
			for _, form := range result.Unhandled {
				fmt.Fprintf(&b, "  %s%s: %s\n", result.Name, inPlace(result.Where), form)
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func inPlace(where string) string {
	if where == "" {
		return ""
	}
	return " (" + where + ")"
}

func (r *Report) writePlace(b *strings.Builder, place string) {
	title := place
	if place == "" {
		title = "everywhere"
	}
	fmt.Fprintf(b, "\n== %s\n", title)
	for _, result := range r.Results {
		if result.Where != place {
			continue
		}
		if result.Verdict == NotSeen {
			fmt.Fprintf(b, "%-12s  %s: %s\n", result.Verdict, result.Name, result.Why)
			continue
		}
		fmt.Fprintf(b, "%-12s  %s: %s%s\n", result.Verdict, result.Name, joined(result.Seen), numbered(result.Numbers))
		if result.Verdict != AsExpected {
			fmt.Fprintf(b, "%14s%s\n", "", result.Fact)
			if result.Verdict != Learned {
				fmt.Fprintf(b, "%14sexpected: %s\n", "", joined(result.Expected))
			}
		}
	}
}

func joined(forms []Form) string {
	texts := make([]string, len(forms))
	for i, form := range forms {
		texts[i] = string(form)
	}
	return strings.Join(texts, "; ")
}

func numbered(numbers map[string]int) string {
	var texts []string
	for _, name := range slices.Sorted(maps.Keys(numbers)) {
		texts = append(texts, fmt.Sprintf("%s %d", name, numbers[name]))
	}
	if len(texts) == 0 {
		return ""
	}
	return " [" + strings.Join(texts, ", ") + "]"
}
