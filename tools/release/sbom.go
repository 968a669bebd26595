package main

import (
	"bytes"
	"fmt"
	"runtime/debug"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/CycloneDX/cyclonedx-gomod/pkg/generate/bin"
	"github.com/rs/zerolog"
)

const generatorModule = "github.com/CycloneDX/cyclonedx-gomod"

// sbom returns the CycloneDX SBOM of a binary, made from what the binary itself lists as linked. It has no serial
// number, because that would be different each time.
func (r *release) sbom(binary string, modules []*linkedModule) ([]byte, error) {
	generator, err := bin.NewGenerator(binary,
		bin.WithLogger(zerolog.Nop()),
		bin.WithIncludeStdlib(true),
		bin.WithVersionOverride(r.version))
	if err != nil {
		return nil, err
	}
	bom, err := generator.Generate()
	if err != nil {
		return nil, err
	}
	bom.Metadata.Timestamp = r.date.Format(time.RFC3339)
	bom.Metadata.Tools = &cdx.ToolsChoice{Components: &[]cdx.Component{{
		Type: cdx.ComponentTypeApplication, Name: "cyclonedx-gomod", Version: generatorVersion(),
	}}}
	if err := nameLicences(*bom.Components, modules); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	encoder := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON)
	encoder.SetPretty(true)
	if err := encoder.EncodeVersion(bom, cdx.SpecVersion1_6); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// nameLicences adds the licence of each module as evidence, which means that a program found it. The binary and "go
// list" must agree on what is linked, or else the SBOM or the notices would be incomplete.
func nameLicences(components []cdx.Component, modules []*linkedModule) error {
	byPath := map[string]*linkedModule{}
	for _, m := range modules {
		byPath[m.path] = m
	}
	for i := range components {
		m := byPath[components[i].Name]
		if m == nil {
			return fmt.Errorf("%s is in the binary but not in the output of go list", components[i].Name)
		}
		delete(byPath, m.path)
		var licences cdx.Licenses
		for _, licence := range m.licences {
			licences = append(licences, cdx.LicenseChoice{License: &cdx.License{ID: licence}})
		}
		if len(licences) > 0 {
			components[i].Evidence = &cdx.Evidence{Licenses: &licences}
		}
	}
	for path := range byPath {
		return fmt.Errorf("%s is in the output of go list but not in the binary", path)
	}
	return nil
}

// generatorVersion is the version of the library that makes SBOMs.
func generatorVersion() string {
	info, _ := debug.ReadBuildInfo()
	for _, dependency := range info.Deps {
		if dependency.Path == generatorModule {
			return dependency.Version
		}
	}
	return ""
}
