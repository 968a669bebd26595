package main

import (
	"bytes"
	"fmt"
	"image/color"
	"os"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Of the palette of Okabe and Ito, which the colour-blind can tell apart.
var (
	blue   = color.RGBA{0, 114, 178, 255}
	orange = color.RGBA{213, 94, 0, 255}
	grey   = color.RGBA{110, 110, 110, 255}
)

const (
	width    = vg.Length(620)
	textSize = vg.Length(12)
	sans     = "Sans"
	line     = vg.Length(2)
	point    = vg.Length(4)
)

var dashes = []vg.Length{5, 4}

// picture is one plot above the other, with the same width of axes.
type picture struct {
	height vg.Length
	plots  []*plot.Plot
}

func (p picture) save(path string) error {
	canvas := vgsvg.New(width, p.height)
	c := draw.New(canvas)
	// White also where the page around it is dark.
	c.SetColor(color.White)
	c.Fill(c.Path())
	c = draw.Crop(c, 8, -16, 8, -8)
	rows := make([][]*plot.Plot, len(p.plots))
	for i, one := range p.plots {
		rows[i] = []*plot.Plot{one}
	}
	tiles := draw.Tiles{Rows: len(rows), Cols: 1, PadY: 10}
	for i, row := range plot.Align(rows, tiles, c) {
		p.plots[i].Draw(row[0])
	}
	drawn, err := finish(canvas)
	if err != nil {
		return err
	}
	return os.WriteFile(path, drawn, 0o644) //nolint:gosec // a picture for all to see
}

// finish returns what was drawn, without letters of a font.
func finish(canvas *vgsvg.Canvas) ([]byte, error) {
	var svg bytes.Buffer
	if _, err := canvas.WriteTo(&svg); err != nil {
		return nil, err
	}
	return outline(svg.Bytes())
}

func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.Padding = 6
	for _, style := range []*text.Style{
		&p.Title.TextStyle, &p.X.Label.TextStyle, &p.Y.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label, &p.Legend.TextStyle,
	} {
		style.Font.Size, style.Font.Variant = textSize, sans
	}
	p.Title.TextStyle.Font.Size = textSize + 1
	p.Legend.Top, p.Legend.Padding, p.Legend.ThumbnailWidth = true, 4, 24
	return p
}

// drawReads has a row for each kind of read, the first on top.
func drawReads(r results) (picture, error) {
	p := newPlot("The engine beside a plugin that does nothing", "engine / do-nothing plugin (ratio)", "")
	var rates ratios
	var p99 plotter.XYs
	var names []string
	for i, read := range slices.Backward(r.reads) {
		y := float64(len(r.reads) - 1 - i)
		rates.add(read, y+0.12)
		p99 = append(p99, plotter.XY{X: read.p99Ratio(), Y: y - 0.12})
		names = append(names, read.Name)
	}
	p.NominalY(names...)
	bars, err := plotter.NewXErrorBars(rates)
	if err != nil {
		return picture{}, err
	}
	bars.Color, bars.Width, bars.CapWidth = blue, line, 8
	rate, err := points(rates.XYs, blue, draw.CircleGlyph{})
	if err != nil {
		return picture{}, err
	}
	latency, err := points(p99, orange, draw.BoxGlyph{})
	if err != nil {
		return picture{}, err
	}
	p.Add(reference(plotter.XYs{{X: 1, Y: -0.5}, {X: 1, Y: float64(len(names)) - 0.5}}), bars, rate, latency)
	p.X.Min, p.X.Max = min(p.X.Min, 0.5), max(p.X.Max, 1.5)
	p.Y.Min, p.Y.Max = -0.5, float64(len(names))+0.6 // room for the legend
	p.Legend.Add("reads per second, more is better; bar: all rounds", rate)
	p.Legend.Add("p99 latency, less is better", latency)
	return picture{360, []*plot.Plot{p}}, nil
}

// ratios of rates: of the medians, and the least and most of any round.
type ratios struct {
	plotter.XYs
	plotter.XErrors
}

func (r *ratios) add(of read, y float64) {
	ratio := of.rateRatio()
	low, high := ratio, ratio
	for i, rate := range of.Engine.Rounds {
		low, high = min(low, rate/of.Nothing.Rounds[i]), max(high, rate/of.Nothing.Rounds[i])
	}
	r.XYs = append(r.XYs, plotter.XY{X: ratio, Y: y})
	r.XErrors = append(r.XErrors, struct{ Low, High float64 }{ratio - low, high - ratio})
}

// drawColdFleets compares fleets of the size of which both were measured.
func drawColdFleets(r results) (picture, error) {
	var oneByOne, byList plotter.XYs
	accounts := 0
	for _, c := range r.coldFleets {
		if !c.List {
			accounts = c.Accounts
			oneByOne = append(oneByOne, plotter.XY{X: float64(c.Connections), Y: float64(c.Requests)})
		}
	}
	for _, c := range r.coldFleets {
		if c.List && c.Accounts == accounts {
			byList = append(byList, plotter.XY{X: float64(c.Connections), Y: float64(c.Requests)})
		}
	}
	p := newPlot(fmt.Sprintf("A cold fleet of %s accounts, on logarithmic axes", thousands(accounts)),
		"connections (number)", "requests to Pipedream")
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker, p.Y.Tick.Marker = ticks(1, 8, 50, 200, 1000), ticks(1, 10, 100, 1000, 10_000)
	if err := addLine(p, "one request per account: the list is refused", oneByOne, orange, draw.BoxGlyph{}); err != nil {
		return picture{}, err
	}
	if err := addLine(p, "the engine, by pages of the list", byList, blue, draw.CircleGlyph{}); err != nil {
		return picture{}, err
	}
	p.Y.Min, p.Y.Max = 1, p.Y.Max*10 // room for the legend
	return picture{320, []*plot.Plot{p}}, nil
}

// drawSteadyState has a plot for each fleet, to the same scale.
func drawSteadyState(r results) (picture, error) {
	const allowed = 100 // requests a minute
	pic := picture{height: vg.Length(len(r.steadyState))*128 + 40}
	for i, s := range r.steadyState {
		p := newPlot(s.name(), "", "req/min")
		area, err := plotter.NewPolygon(steps(s.ByMinute))
		if err != nil {
			return picture{}, err
		}
		area.Color, area.LineStyle = blue, draw.LineStyle{Color: blue, Width: 0.5}
		limit := reference(plotter.XYs{{X: 0, Y: allowed}, {X: float64(len(s.ByMinute)), Y: allowed}})
		p.Add(area, limit)
		p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = 0, float64(len(s.ByMinute)), 0, allowed
		p.X.Tick.Marker, p.Y.Tick.Marker = every(30, len(s.ByMinute)), ticks(0, 50, 100)
		if i == 0 {
			p.Legend.Add(fmt.Sprintf("requests for %s accounts", thousands(s.Accounts)), area)
			p.Legend.Add("allowed by Pipedream", limit)
			p.Legend.YOffs = -10
		}
		if i == len(r.steadyState)-1 {
			p.X.Label.Text = "minutes (tokens live for 60)"
		}
		pic.plots = append(pic.plots, p)
	}
	return pic, nil
}

// steps is the outline of bars without a gap.
func steps(heights []int) plotter.XYs {
	xys := plotter.XYs{{X: 0, Y: 0}}
	last := 0
	for i, n := range append(slices.Clone(heights), 0) {
		if n != last || i == len(heights) {
			xys = append(xys, plotter.XY{X: float64(i), Y: float64(last)}, plotter.XY{X: float64(i), Y: float64(n)})
		}
		last = n
	}
	return xys
}

func drawMemory(r results) (picture, error) {
	p := newPlot("Memory of the engine", "accounts that were read (thousands)", "memory (MiB)")
	for _, one := range []struct {
		name  string
		of    []footprint
		color color.Color
		shape draw.GlyphDrawer
	}{
		{"resident, the plugin's process", r.memory, blue, draw.CircleGlyph{}},
		{"heap, for cached accounts", r.heap, orange, draw.BoxGlyph{}},
	} {
		var xys plotter.XYs
		for _, f := range one.of {
			xys = append(xys, plotter.XY{X: float64(f.Accounts) / 1000, Y: f.mib()})
		}
		if err := addLine(p, one.name, xys, one.color, one.shape); err != nil {
			return picture{}, err
		}
	}
	p.Y.Min, p.Y.Max = 0, p.Y.Max*1.35 // room for the legend
	p.X.Min = 0
	return picture{320, []*plot.Plot{p}}, nil
}

func addLine(p *plot.Plot, name string, xys plotter.XYs, c color.Color, shape draw.GlyphDrawer) error {
	l, s, err := plotter.NewLinePoints(xys)
	if err != nil {
		return err
	}
	l.Color, l.Width = c, line
	s.Color, s.Radius, s.Shape = c, point, shape
	p.Add(l, s)
	p.Legend.Add(name, l, s)
	return nil
}

func points(xys plotter.XYs, c color.Color, shape draw.GlyphDrawer) (*plotter.Scatter, error) {
	s, err := plotter.NewScatter(xys)
	if err != nil {
		return nil, err
	}
	s.Color, s.Radius, s.Shape = c, point, shape
	return s, nil
}

// reference is a line that figures are compared with.
func reference(xys plotter.XYs) *plotter.Line {
	return &plotter.Line{XYs: xys, LineStyle: draw.LineStyle{Color: grey, Width: 1, Dashes: dashes}}
}

func ticks(at ...int) plot.ConstantTicks {
	var all plot.ConstantTicks
	for _, n := range at {
		all = append(all, plot.Tick{Value: float64(n), Label: thousands(n)})
	}
	return all
}

func every(step, upTo int) plot.ConstantTicks {
	var at []int
	for n := 0; n <= upTo; n += step {
		at = append(at, n)
	}
	return ticks(at...)
}
