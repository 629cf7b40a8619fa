package configyaml

import "strings"

// nearest returns the known name that somebody who wrote name most likely
// meant, "" if none is near enough.
func nearest(name string, known []string) string {
	name = normal(name)
	best, bestDistance := "", 0
	for _, candidate := range known {
		// A third of the letters wrong is another word, not a slip.
		limit := max(1, min(len(name), len(candidate))/3)
		if d := distance(name, normal(candidate), limit); d <= limit && (best == "" || d < bestDistance) {
			best, bestDistance = candidate, d
		}
	}
	return best
}

// normal leaves out what differs only by habit: case, and how words are joined.
func normal(name string) string {
	return strings.NewReplacer("_", "", "-", "").Replace(strings.ToLower(name))
}

// distance counts the single letters to insert, drop, change or swap with their
// neighbour to make a into b (optimal string alignment). It stops counting
// beyond limit.
func distance(a, b string, limit int) int {
	if len(a)-len(b) > limit || len(b)-len(a) > limit {
		return limit + 1
	}
	// rows[i][j] is the distance of a's first i letters to b's first j.
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}
