// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// outputFormat is the value of --output.
type outputFormat string

// Formats of output.
const (
	asTable outputFormat = "table"
	asWide  outputFormat = "wide" // a table with more columns
	asJSON  outputFormat = "json"
	asYAML  outputFormat = "yaml"
)

// outputFlag defines --output, and --json for compatibility. more are formats besides table, json
// and yaml.
func outputFlag(cmd *cobra.Command, more ...outputFormat) *outputFormat {
	formats := append([]outputFormat{asTable, asJSON, asYAML}, more...)
	names := make([]string, len(formats))
	for n, f := range formats {
		names[n] = string(f)
	}
	format := asTable
	cmd.Flags().FuncP("output", "o", "print a `"+strings.Join(names, "|")+"`", func(value string) error {
		format = outputFormat(value)
		if !slices.Contains(formats, format) {
			return errors.New("want " + orList(names))
		}
		return nil
	})
	isOneOf(cmd, "output", names...)
	cmd.Flags().BoolFunc("json", "the same as --output json", func(string) error {
		format = asJSON
		return nil
	})
	return &format
}

// print prints the document as JSON or YAML, or else the table.
func (f outputFormat) print(w io.Writer, document any, table []byte) error {
	if f == asJSON || f == asYAML {
		return f.write(w, document)
	}
	_, err := w.Write(table)
	return err
}

// write prints a document as JSON or YAML.
func (f outputFormat) write(w io.Writer, v any) error {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(v); err != nil {
		return err
	}
	if f == asYAML {
		// JSON is YAML: parsing it keeps the keys' names and order.
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

// plainStyle drops braces, brackets and unnecessary quotes. Strings like "0:1", which YAML 1.1
// reads as base 60 numbers, keep their quotes.
func plainStyle(n *yaml.Node) {
	if n.Tag != "!!str" || !strings.Contains(n.Value, ":") {
		n.Style = 0
	}
	for _, below := range n.Content {
		plainStyle(below)
	}
}
