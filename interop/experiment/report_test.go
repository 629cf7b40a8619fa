package experiment

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
)

// measureOf returns a measure by its name.
func measureOf(t *testing.T, a *analysis, name string) *measure {
	t.Helper()

	for i := range a.Measures {
		if a.Measures[i].Name == name {
			return &a.Measures[i]
		}
	}
	t.Fatalf("%s: the report has no measure %s", a.Name, name)

	return nil
}

// differs says in what a report is not what callers know; "": it is the same.
func differs(a *analysis, want map[string]*sums) string {
	const nearly = 1e-9
	if len(a.Variants) != len(want) {
		return fmt.Sprintf("%d variants, callers saw %d", len(a.Variants), len(want))
	}
	if a.Crossed != 0 || a.Sampled != 1 {
		return fmt.Sprintf("%d units are in several variants, and it is a sample of %v", a.Crossed, a.Sampled)
	}
	for i, v := range a.Variants {
		s := want[v.Name]
		if s == nil || v.Units != len(s.units) {
			return fmt.Sprintf("%s: %d units, callers know of %v", v.Name, v.Units, len(s.units))
		}
		for _, m := range a.Measures {
			mean := m.Variants[i].Mean
			var known float64
			switch m.Name {
			case "revenue":
				known = s.mean()
			case "rpcs":
				known = float64(s.rpcs) / float64(len(s.units))
			case "success":
				// A user fails always or never.
				known = 1 - float64(s.failed)/float64(s.rpcs)
				for _, values := range s.units {
					if len(values)*len(s.units) != s.rpcs {
						known = mean // not all have as many RPCs
					}
				}
			default:
				continue
			}
			if math.Abs(mean-known) > nearly*math.Abs(known) {
				return fmt.Sprintf("%s: %s is %v, callers know of %v in %d RPCs", v.Name, m.Name, mean, known, s.rpcs)
			}
		}
	}

	return ""
}

// standsAlone fails where a page is not well-formed, or needs anything from elsewhere.
func standsAlone(t *testing.T, page string) {
	t.Helper()

	count := map[string]int{}
	d := xml.NewDecoder(strings.NewReader(page))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the page is not well-formed: %v", err)
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		count[start.Name.Local]++
		for _, a := range start.Attr {
			name := strings.ToLower(a.Name.Local)
			if name == "src" || name == "href" || strings.HasPrefix(name, "on") {
				t.Errorf("<%s> has %s=%q", start.Name.Local, name, a.Value)
			}
		}
	}
	if count["script"]+count["link"]+count["img"] > 0 || strings.Count(page, "url(") != strings.Count(page, "url(#") || strings.Contains(page, "@import") {
		t.Errorf("the page needs something from elsewhere: %v", count)
	}
	if count["svg"] < 4 || count["table"] < 2 {
		t.Errorf("the page has no plots or tables: %v", count)
	}
}
