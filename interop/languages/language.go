package languages

import (
	"path/filepath"
)

// Language is one of those that a peer is written in.
type Language struct {
	// Name is also its folder's.
	Name string
	// Toolchain are the commands that tell the versions of what is needed. Where
	// one cannot be run, the language is skipped.
	Toolchain [][]string
	// Install says what to install then.
	Install string
	// Build makes the peer of the copied sources; see [builder].
	Build []Step
	// Command is what runs the peer once it is built in a folder, with its
	// environment.
	Command func(folder string) (command, env []string)
}

// Step is one command of a build, run in the copy of the language's folder.
type Step struct {
	Command []string
	Env     []string
}

// sharedTarget stands in a step's environment for a folder that builds of all
// versions of a peer share.
const sharedTarget = "SHARED"

// All are the languages that there are peers in.
var All = []Language{
	{
		Name:      "go",
		Toolchain: [][]string{{"go", "version"}},
		Install:   "Go",
		// Its sources stay where they are: they belong to this module.
		Build: nil,
		Command: func(folder string) ([]string, []string) {
			return []string{filepath.Join(folder, "peer")}, nil
		},
	},
	{
		Name:      "python",
		Toolchain: [][]string{{"python3", "--version"}, {"python3", "-m", "pip", "--version"}},
		Install:   "Python 3.10 or later with pip (Debian: python3 python3-pip)",
		Build: []Step{
			{Command: []string{"python3", "-m", "pip", "install", "--quiet", "--no-deps", "--root-user-action=ignore", "--target=site", "--requirement=requirements.txt"}},
			{
				Command: []string{"python3", "-m", "grpc_tools.protoc", "--proto_path=../proto", "--python_out=site", "--grpc_python_out=site", "peer.proto"},
				Env:     []string{"PYTHONPATH=site"},
			},
		},
		Command: func(folder string) ([]string, []string) {
			return []string{"python3", filepath.Join(folder, "peer.py")}, []string{"PYTHONPATH=" + filepath.Join(folder, "site")}
		},
	},
	{
		Name:      "node",
		Toolchain: [][]string{{"node", "--version"}, {"npm", "--version"}},
		Install:   "Node.js 20 or later with npm (Debian: nodejs npm)",
		Build: []Step{
			{Command: []string{"npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"}},
			{Command: []string{"cp", "../proto/peer.proto", "."}},
		},
		Command: func(folder string) ([]string, []string) {
			return []string{"node", filepath.Join(folder, "peer.js")}, nil
		},
	},
	{
		Name:      "java",
		Toolchain: [][]string{{"javac", "-version"}, {"mvn", "--batch-mode", "--version"}},
		Install:   "a JDK 17 or later with Maven (Debian: openjdk-17-jdk-headless maven)",
		Build: []Step{
			{Command: []string{"mvn", "--batch-mode", "--quiet", "compile", "dependency:copy-dependencies"}},
		},
		Command: func(folder string) ([]string, []string) {
			target := filepath.Join(folder, "target")

			// Two cores, and many of them at once: what starts fast matters.
			return []string{
				"java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx512m", "-Dfile.encoding=UTF-8",
				"-cp", filepath.Join(target, "classes") + ":" + filepath.Join(target, "lib", "*"), "pillion.languages.Main",
			}, nil
		},
	},
	{
		Name:      "rust",
		Toolchain: [][]string{{"rustc", "--version"}, {"cargo", "--version"}},
		Install:   "Rust 1.88 or later with cargo (rustup, or the distribution's)",
		Build: []Step{
			// With what its libraries became once, a change of the peer takes seconds.
			{Command: []string{"cargo", "build", "--quiet", "--locked"}, Env: []string{"CARGO_TARGET_DIR=" + sharedTarget}},
			{Command: []string{"sh", "-c", `cp "$CARGO_TARGET_DIR/debug/peer" .`}, Env: []string{"CARGO_TARGET_DIR=" + sharedTarget}},
		},
		Command: func(folder string) ([]string, []string) {
			return []string{filepath.Join(folder, "peer")}, nil
		},
	},
}
