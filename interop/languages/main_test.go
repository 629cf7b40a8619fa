package languages

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// report is what the run says at its end, a line for each language.
var report struct {
	sync.Mutex

	ran, skipped []string
}

func TestMain(m *testing.M) {
	code := m.Run()
	if len(report.ran)+len(report.skipped) > 0 {
		fmt.Printf("\nran:\n  %s\n", strings.Join(report.ran, "\n  "))
		fmt.Printf("skipped:\n  %s\n\n", strings.Join(append(report.skipped, "nothing else"), "\n  "))
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Println(err)
			code = 1
		}
	}
	os.Exit(code)
}
