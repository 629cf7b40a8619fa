// Package report says what the results of an experiment mean, and what an experiment that
// is planned will need: as a struct, as text, as JSON, and as a page of HTML. It takes
// documents and figures as they are and counts nothing itself.
package report
