// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// outputFormat is the value of --output.
type outputFormat string

// Formats of output.
const (
	asTable outputFormat = "table"
	asJSON  outputFormat = "json"
	asYAML  outputFormat = "yaml"
)

func (f *outputFormat) String() string { return string(*f) }
func (f *outputFormat) Type() string   { return "string" }

func (f *outputFormat) Set(value string) error {
	switch format := outputFormat(value); format {
	case asTable, asJSON, asYAML:
		*f = format
		return nil
	}
	return fmt.Errorf("want %s, %s or %s", asTable, asJSON, asYAML)
}

// outputFlag defines --output, and --json, which is older.
func outputFlag(cmd *cobra.Command) *outputFormat {
	format := asTable
	cmd.Flags().VarP(&format, "output", "o", "print a `table|json|yaml`")
	isOneOf(cmd, "output", string(asTable), string(asJSON), string(asYAML))
	cmd.Flags().BoolFunc("json", "the same as --output json", func(string) error { return format.Set("json") })
	return &format
}

// write prints a document, the same one as JSON or YAML.
func (f outputFormat) write(w io.Writer, v any) error {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(v); err != nil {
		return err
	}
	if f == asYAML {
		// JSON is YAML in another style: keys keep their names and their order.
		var document yaml.Node
		if err := yaml.Unmarshal(out.Bytes(), &document); err != nil {
			return err
		}
		plainStyle(&document)
		out.Reset()
		encoder := yaml.NewEncoder(&out)
		encoder.SetIndent(2)
		if err := encoder.Encode(&document); err != nil {
			return err
		}
	}
	_, err := w.Write(out.Bytes())
	return err
}

// plainStyle drops braces, brackets and the quotes that a string does not need.
func plainStyle(n *yaml.Node) {
	n.Style = 0
	for _, below := range n.Content {
		plainStyle(below)
	}
}
