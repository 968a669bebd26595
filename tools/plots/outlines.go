package main

import (
	"bytes"
	"fmt"
	"html"
	"regexp"
	"strconv"

	"golang.org/x/image/font"
	"golang.org/x/image/font/sfnt"
	"golang.org/x/image/math/fixed"
	"gonum.org/v1/plot"
	plotfont "gonum.org/v1/plot/font"
)

// written is a text as vgsvg writes it: its place, colour, size and words.
var written = regexp.MustCompile(`<text x="([^"]+)" y="([^"]+)" transform="scale\(1, -1\)"\s+style="[^"]*font-size:([0-9.]+)px(;fill:[^";]+)?[^"]*">([^<]*)</text>`)

// outline draws the letters of all texts in a picture. Then it looks the same
// everywhere: most who look at it do not have its font, and the letters of theirs
// are wider. The words stay as labels, for those who have a picture read to them.
func outline(svg []byte) ([]byte, error) {
	face := plotfont.DefaultCache.Lookup(plotfont.Font{Typeface: plot.DefaultFont.Typeface, Variant: sans}, textSize)
	var failed error
	drawn := written.ReplaceAllFunc(svg, func(text []byte) []byte {
		m := written.FindSubmatch(text)
		words := html.UnescapeString(string(m[5]))
		path, err := letters(face.Face, words, string(m[1]), string(m[2]), string(m[3]))
		if err != nil {
			failed = fmt.Errorf("%q: %w", words, err)
		}
		return fmt.Appendf(nil, `<path role="img" aria-label="%s" transform="scale(1, -1)" style="%s" d="%s" />`,
			html.EscapeString(words), bytes.TrimPrefix(m[4], []byte(";")), path)
	})
	return drawn, failed
}

// letters is the outline of words whose base line begins at x and y.
func letters(f *sfnt.Font, words, x, y, size string) ([]byte, error) {
	var at [3]float64
	for i, number := range []string{x, y, size} {
		var err error
		if at[i], err = strconv.ParseFloat(number, 64); err != nil {
			return nil, err
		}
	}
	var path []byte
	var buffer sfnt.Buffer
	pen, ppem := at[0], fixed.Int26_6(at[2]*64)
	for _, letter := range words {
		glyph, err := f.GlyphIndex(&buffer, letter)
		if err != nil {
			return nil, err
		}
		if glyph == 0 {
			return nil, fmt.Errorf("the font has no %q", letter)
		}
		outlines, err := f.LoadGlyph(&buffer, glyph, ppem, nil)
		if err != nil {
			return nil, err
		}
		for _, s := range outlines {
			path = append(path, "MLQC"[s.Op])
			for i, p := range s.Args[:[]int{1, 1, 2, 3}[s.Op]] {
				if i > 0 {
					path = append(path, ' ')
				}
				path = fmt.Appendf(path, "%.2f,%.2f", pen+float64(p.X)/64, at[1]+float64(p.Y)/64)
			}
		}
		advance, err := f.GlyphAdvance(&buffer, glyph, ppem, font.HintingNone)
		if err != nil {
			return nil, err
		}
		pen += float64(advance) / 64
	}
	return path, nil
}
