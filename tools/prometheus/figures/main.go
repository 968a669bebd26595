// Command figures asks Prometheus's own query engine what a Grafana dashboard would
// ask, over scrapes that are kept in a file. It prints the answers as JSON.
//
//	figures <dashboard> <scrapes>
//
// Each line of the scrapes is a sample in the text format, with its time.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb"
)

// figures are the answers to all queries of a dashboard.
type figures struct {
	From    time.Time           `json:"from"`
	Step    int                 `json:"step_seconds"`
	Queries map[string][]series `json:"queries"` // by expression, as the dashboard has it
}

type series struct {
	Labels map[string]string `json:"labels,omitempty"`
	Values []*float64        `json:"values"` // null where there is none
}

type dashboard struct {
	Panels []struct {
		Targets []struct {
			Expr string `json:"expr"`
		} `json:"targets"`
	} `json:"panels"`
}

const step = 3 * time.Minute

// As Grafana does with all mounts selected, for a scrape each minute.
var selected = strings.NewReplacer("$job", ".*", "$mount", ".*", "$__rate_interval", "4m")

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 2 {
		return errors.New("usage: figures <dashboard> <scrapes>")
	}
	text, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		return err
	}
	scrapes, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "figures")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // of no more use
	db, err := tsdb.Open(dir, nil, nil, tsdb.DefaultOptions(), nil)
	if err != nil {
		return err
	}
	defer db.Close() //nolint:errcheck // of no more use
	from, to, err := store(ctx, db, scrapes)
	if err != nil {
		return err
	}
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 10_000_000, Timeout: time.Minute, Parser: parser.NewParser(parser.Options{})})
	all := figures{From: from, Step: int(step.Seconds()), Queries: map[string][]series{}}
	for _, panel := range d.Panels {
		for _, target := range panel.Targets {
			query, err := engine.NewRangeQuery(ctx, db, nil, selected.Replace(target.Expr), from, to, step)
			if err != nil {
				return fmt.Errorf("%s: %w", target.Expr, err)
			}
			result, err := query.Exec(ctx).Matrix()
			if err != nil {
				return fmt.Errorf("%s: %w", target.Expr, err)
			}
			all.Queries[target.Expr] = answer(result, from, to)
			query.Close()
		}
	}
	text, err = json.Marshal(all)
	if err != nil {
		return err
	}
	_, err = out.Write(text)
	return err
}

// store appends all samples, with the labels that a scrape job adds.
func store(ctx context.Context, db *tsdb.DB, scrapes []byte) (from, to time.Time, err error) {
	appender := db.Appender(ctx)
	for p := textparse.NewPromParser(scrapes, labels.NewSymbolTable(), false); ; {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			return from, to, appender.Commit()
		}
		if err != nil {
			return from, to, err
		}
		if entry != textparse.EntrySeries {
			continue
		}
		_, at, value := p.Series()
		if at == nil {
			return from, to, errors.New("a sample has no time")
		}
		var of labels.Labels
		p.Labels(&of)
		with := labels.NewBuilder(of).Set("job", "vault-pipedream").Set("instance", "vault.example.com:8200").Set("mount", "pipedream")
		if _, err := appender.Append(0, with.Labels(), *at, value); err != nil {
			return from, to, err
		}
		if to = time.UnixMilli(*at).UTC(); from.IsZero() {
			from = to
		}
	}
}

func answer(result promql.Matrix, from, to time.Time) (all []series) {
	for _, one := range result {
		s := series{Labels: one.Metric.Map(), Values: make([]*float64, to.Sub(from)/step+1)}
		for _, point := range one.Floats {
			if math.IsNaN(point.F) {
				continue
			}
			short, _ := strconv.ParseFloat(strconv.FormatFloat(point.F, 'g', 4, 64), 64)
			s.Values[time.UnixMilli(point.T).Sub(from)/step] = &short
		}
		all = append(all, s)
	}
	return all
}
