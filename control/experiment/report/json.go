package report

import (
	"encoding/json"
	"io"
)

// WriteJSON writes the analysis as JSON, for other programs.
func (a *Analysis) WriteJSON(w io.Writer) error { return writeJSON(w, a) }

// WriteJSON writes the plan as JSON, for other programs.
func (p *Plan) WriteJSON(w io.Writer) error { return writeJSON(w, p) }

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
