package configyaml

// held keeps the compiled rules while tests run: the garbage collector takes them
// otherwise, and to compile them for each test would be most of what tests do.
var held, _ = compiledRules()

var _ = held
