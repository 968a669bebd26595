package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"image/color"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// dashboard is what a Grafana dashboard says about the look of its panels.
type dashboard struct {
	Panels []panel `json:"panels"`
}

type panel struct {
	Type  string `json:"type"`
	Title string `json:"title"`
	Place struct {
		X, Y, W, H int
	} `json:"gridPos"`
	Targets []struct {
		Expr   string `json:"expr"`
		Legend string `json:"legendFormat"`
	} `json:"targets"`
	Field struct {
		Defaults struct {
			Unit     string `json:"unit"`
			Mappings []struct {
				Options map[string]struct {
					Text  string `json:"text"`
					Color string `json:"color"`
				} `json:"options"`
			} `json:"mappings"`
			Thresholds struct {
				Steps []struct {
					Color string   `json:"color"`
					Value *float64 `json:"value"`
				} `json:"steps"`
			} `json:"thresholds"`
			Custom struct {
				Stacking struct {
					Mode string `json:"mode"`
				} `json:"stacking"`
			} `json:"custom"`
		} `json:"defaults"`
	} `json:"fieldConfig"`
	Options struct {
		TextMode string `json:"textMode"`
	} `json:"options"`
}

// answers are what Prometheus answered to the queries of a dashboard.
type answers struct {
	From    time.Time           `json:"from"`
	Step    float64             `json:"step_seconds"`
	Queries map[string][]series `json:"queries"`
}

type series struct {
	Labels map[string]string `json:"labels"`
	Values []*float64        `json:"values"`
	name   string
}

// A cell of Grafana's grid, of which 24 are in a row.
const (
	cellWidth  = vg.Length(40)
	cellHeight = vg.Length(26)
	gap        = vg.Length(4)
)

// lines are the colours of the series of a panel, those of Okabe and Ito first.
var lines = []color.RGBA{blue, {230, 159, 0, 255}, {0, 158, 115, 255}, orange, {86, 180, 233, 255}, {204, 121, 167, 255}, grey, {0, 0, 0, 255}}

var states = map[string]color.Color{
	"green": color.RGBA{0, 128, 85, 255}, "yellow": color.RGBA{190, 130, 0, 255}, "red": color.RGBA{200, 30, 30, 255},
}

// drawDashboard draws all panels where Grafana would.
func drawDashboard(d dashboard, a answers) ([]byte, error) {
	bottom := 0
	for _, p := range d.Panels {
		bottom = max(bottom, p.Place.Y+p.Place.H)
	}
	height := vg.Length(bottom) * cellHeight
	canvas := vgsvg.New(24*cellWidth, height)
	c := draw.New(canvas)
	c.SetColor(color.Gray{244})
	c.Fill(c.Path())
	for _, p := range d.Panels {
		left, top := vg.Length(p.Place.X)*cellWidth, height-vg.Length(p.Place.Y)*cellHeight
		inside := draw.Canvas{Canvas: c.Canvas, Rectangle: vg.Rectangle{
			Min: vg.Point{X: left + gap, Y: top - vg.Length(p.Place.H)*cellHeight + gap},
			Max: vg.Point{X: left + vg.Length(p.Place.W)*cellWidth - gap, Y: top - gap},
		}}
		if err := p.draw(inside, a); err != nil {
			return nil, fmt.Errorf("%s: %w", p.Title, err)
		}
	}
	return finish(canvas)
}

func (p panel) draw(c draw.Canvas, a answers) error {
	if p.Type == "row" {
		letter(c, c.Min.X, c.Min.Y+gap, p.Title, textSize+2, color.Black)
		return nil
	}
	c.SetColor(color.White)
	c.Fill(c.Path())
	all, err := p.series(a)
	if err != nil {
		return err
	}
	switch p.Type {
	case "stat":
		return p.drawStat(c, all)
	case "timeseries":
		return p.drawSeries(c, all, a)
	}
	return fmt.Errorf("there is no way to draw a %s", p.Type)
}

var label = regexp.MustCompile(`{{(\w+)}}`)

// series are the answers to all queries of a panel, named as its legend names them.
func (p panel) series(a answers) (all []series, err error) {
	for _, target := range p.Targets {
		answered, known := a.Queries[target.Expr]
		if !known {
			return nil, errors.New("its query was not asked when the figures were recorded: make dashboard")
		}
		for _, s := range answered {
			s.name = label.ReplaceAllStringFunc(target.Legend, func(m string) string { return s.Labels[strings.Trim(m, "{}")] })
			all = append(all, s)
		}
	}
	if len(all) == 0 {
		return nil, errors.New("no data")
	}
	return all, nil
}

// drawStat shows the last value, in the colour of its state.
func (p panel) drawStat(c draw.Canvas, all []series) error {
	last := all[0].Values[len(all[0].Values)-1]
	if last == nil {
		return errors.New("no last value")
	}
	shown, state := inUnit(*last, p.Field.Defaults.Unit), ""
	for _, step := range p.Field.Defaults.Thresholds.Steps {
		if step.Value == nil || *last >= *step.Value {
			state = step.Color
		}
	}
	for _, mapping := range p.Field.Defaults.Mappings {
		if option, mapped := mapping.Options[strconv.FormatFloat(*last, 'f', -1, 64)]; mapped {
			shown, state = option.Text, option.Color
		}
	}
	size := textSize * 2
	if p.Options.TextMode == "name" {
		shown, size = all[0].name, textSize
	}
	colour, known := states[state]
	if !known {
		return fmt.Errorf("there is no colour %q", state)
	}
	letter(c, c.Min.X+2*gap, c.Max.Y-textSize-gap, p.Title, textSize-2, color.Black)
	letter(c, c.Min.X+2*gap, c.Min.Y+5*gap, shown, size, colour)
	return nil
}

// drawSeries leaves out what is 0 throughout, if anything is not.
func (p panel) drawSeries(c draw.Canvas, all []series, a answers) error {
	if moving := slices.DeleteFunc(slices.Clone(all), series.isZero); len(moving) > 0 {
		all = moving
	}
	pl := newPlot(p.Title, "", unitNames[p.Field.Defaults.Unit])
	pl.Title.TextStyle.Font.Size = textSize
	pl.X.Tick.Marker, pl.Y.Tick.Marker = hours(a.From, a.Step), few{}
	stacked := p.Field.Defaults.Custom.Stacking.Mode == "normal"
	below := make([]float64, len(all[0].Values))
	var drawn []plot.Plotter
	for i, s := range all {
		xys, base := make(plotter.XYs, 0, len(s.Values)), slices.Clone(below)
		for x, v := range s.Values {
			if v == nil {
				continue
			}
			y := *v
			if stacked {
				below[x] += y
				y = below[x]
			}
			xys = append(xys, plotter.XY{X: float64(x), Y: y})
			pl.Y.Max = max(pl.Y.Max, y)
		}
		colour := lines[i%len(lines)]
		drawn = append(drawn, &plotter.Line{XYs: xys, LineStyle: draw.LineStyle{Color: colour, Width: 1.2}})
		if stacked {
			area, err := plotter.NewPolygon(slices.Concat(xys, under(xys, base)))
			if err != nil {
				return err
			}
			area.Color, area.Width = color.RGBA{tint(colour.R), tint(colour.G), tint(colour.B), 255}, 0
			drawn = append(drawn, area)
		}
	}
	slices.Reverse(drawn) // the line of a series goes over that of an empty one above it
	pl.Add(drawn...)
	pl.X.Min, pl.X.Max, pl.Y.Min = 0, float64(len(below)-1), 0
	if pl.Y.Max *= 1.1; pl.Y.Max == 0 {
		pl.Y.Max = 1
	}
	pl.Draw(draw.Crop(c, gap, -3*gap, 6*gap, -gap))
	drawLegend(c, all)
	return nil
}

func (s series) isZero() bool {
	return !slices.ContainsFunc(s.Values, func(v *float64) bool { return v != nil && *v != 0 })
}

// drawLegend writes the names of the series in a row at the bottom.
func drawLegend(c draw.Canvas, all []series) {
	x, y := c.Min.X+3*gap, c.Min.Y+2*gap
	for i, s := range all {
		c.SetColor(lines[i%len(lines)])
		c.Fill(draw.Canvas{Canvas: c.Canvas, Rectangle: vg.Rectangle{Min: vg.Point{X: x, Y: y + 2}, Max: vg.Point{X: x + 12, Y: y + 5}}}.Path())
		x += 12 + gap
		x += letter(c, x, y, s.name, textSize-2, color.Black) + 4*gap
	}
}

// under goes back along the upper edge of the series below.
func under(xys plotter.XYs, base []float64) plotter.XYs {
	back := slices.Clone(xys)
	for i := range back {
		back[i].Y = base[int(back[i].X)]
	}
	slices.Reverse(back)
	return back
}

func tint(c uint8) uint8 { return c + (255-c)/2 }

// letter writes words that begin at x and y, and returns their width.
func letter(c draw.Canvas, x, y vg.Length, words string, size vg.Length, colour color.Color) vg.Length {
	style := plot.New().Title.TextStyle
	style.Font.Size, style.Font.Variant, style.Color = size, sans, colour
	style.XAlign, style.YAlign = draw.XLeft, draw.YBottom
	c.FillText(style, vg.Point{X: x, Y: y}, words)
	return style.Width(words)
}

var unitNames = map[string]string{"reqps": "req/s", "cpm": "per minute", "s": "seconds", "bytes": "bytes", "short": ""}

func inUnit(v float64, unit string) string {
	if unit == "s" {
		return (time.Duration(math.Round(v)) * time.Second).String()
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}

// hours are the ticks of an axis that counts steps.
func hours(from time.Time, step float64) (ticks plot.ConstantTicks) {
	for at := from.Truncate(time.Hour); at.Before(from.Add(24 * time.Hour)); at = at.Add(time.Hour) {
		ticks = append(ticks, plot.Tick{Value: at.Sub(from).Seconds() / step, Label: at.Format("15:04")})
	}
	return ticks
}

// few is a handful of ticks, with short labels.
type few struct{}

func (few) Ticks(low, high float64) (ticks []plot.Tick) {
	size := math.Pow(10, math.Floor(math.Log10(high/2)))
	for _, times := range []float64{5, 2} {
		if high/(size*times) >= 2 {
			size *= times
			break
		}
	}
	for v := low; v <= high; v += size {
		label := strconv.FormatFloat(v, 'g', 3, 64)
		if v >= 1000 {
			label = strconv.FormatFloat(v/1000, 'g', 4, 64) + " k"
		}
		ticks = append(ticks, plot.Tick{Value: v, Label: label})
	}
	return ticks
}

// runDashboard draws a dashboard with recorded figures.
func runDashboard(dashboardFile, figuresFile, pictureFile string) error {
	var d dashboard
	var a answers
	for name, into := range map[string]any{dashboardFile: &d, figuresFile: &a} {
		text, err := os.ReadFile(name) //nolint:gosec // the caller's own
		if err == nil {
			err = json.Unmarshal(text, into)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	svg, err := drawDashboard(d, a)
	if err != nil {
		return err
	}
	return os.WriteFile(pictureFile, svg, 0o644) //nolint:gosec // a picture for all to see
}
