// SPDX-License-Identifier: Apache-2.0

// Package cli is the grammar of tenonctl: nouns and verbs, their flags, and what
// becomes of the answers. How answers look is package show's.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/api/failure"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/cmd/tenonctl/show"
)

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// DefaultSocket is where tenond listens unless it is told otherwise.
const DefaultSocket = "/run/tenon/tenond.sock"

// socketVariable names another socket in the environment.
const socketVariable = "TENON_SOCKET"

// Env is the world that a run of tenonctl sees.
type Env struct {
	In       io.Reader
	Out, Err io.Writer
	Getenv   func(string) string
	Now      func() time.Time
	Zone     *time.Location
	// OutIsTerminal and ErrIsTerminal decide whether raw bytes are refused and
	// whether there are progress bars.
	OutIsTerminal, ErrIsTerminal bool
}

// FromOS returns the process's own world.
func FromOS() Env {
	return Env{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		Getenv: os.Getenv, Now: time.Now, Zone: time.Local,
		OutIsTerminal: isTerminal(os.Stdout), ErrIsTerminal: isTerminal(os.Stderr),
	}
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// Main runs the process's command line in the process's world. The first
// interrupt ends the waiting in good order; a second one kills.
func Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return Run(ctx, FromOS(), os.Args[1:])
}

// Run runs one command line and returns the exit code.
func Run(ctx context.Context, env Env, args []string) int {
	a := &app{env: env, style: show.Style{Zone: env.Zone}}
	defer a.hangUp()
	root := a.root()
	root.SetArgs(args)
	root.SetIn(env.In)
	root.SetOut(env.Out)
	root.SetErr(env.Err)
	cmd, err := root.ExecuteContextC(ctx)
	return a.report(cmd, err)
}

// app is one run.
type app struct {
	env   Env
	style show.Style
	link  link

	output    string
	socket    string
	timeout   time.Duration
	async     bool
	quiet     bool
	requestID string
}

const rootLong = `tenonctl asks tenond, the storage agent of this host, for things.

Every command is a noun and a verb. What a command names is a URI,
DEVICE/VOLUME or DEVICE/VOLUME@SNAPSHOT, a device's name, or a domain's name or id.
Sizes are bytes, or with K, M, G, T powers of 1024 (4096, 512Mi, 20G). Commands that
change something start an operation, which goes on in tenond whatever becomes of
tenonctl; they wait for its end unless --async is given.

The exit code is 2 when the command line is wrong, whether tenonctl or tenond finds it so, and
1 for every other failure.`

const rootExample = `  tenonctl device add fast --driver dir -p path=/srv/fast
  tenonctl volume create fast/vm1 --size 20G
  tenonctl disk attach fast/vm1 web01
  tenonctl snapshot create fast/vm1 --name before-upgrade --domain web01 --freeze
  tenonctl copy fast/vm1@before-upgrade archive/vm1`

// usage is cobra's template with our words: verbs, and no line that every
// command shares.
const usage = `Usage:
  {{.UseLine}}{{if .HasExample}}

Examples:
{{.Example}}{{end}}{{if .HasAvailableSubCommands}}

{{if .HasParent}}Verbs{{else}}Nouns{{end}}:{{range .Commands}}{{if or .IsAvailableCommand (eq .Name "help")}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}{{if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableInheritedFlags}}

Flags of every command:
{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableSubCommands}}

More with {{.CommandPath}} {{if .HasParent}}VERB{{else}}NOUN{{end}} --help.{{end}}
`

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "tenonctl NOUN VERB",
		Version:       version(),
		Short:         "Manage storage and the disks of virtual machines on this host",
		Long:          rootLong,
		Example:       rootExample,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return a.prepare(cmd)
		},
		RunE:                  missingVerb,
		Args:                  cobra.ArbitraryArgs,
		DisableFlagsInUseLine: true,
	}
	socket := a.env.Getenv(socketVariable)
	if socket == "" {
		socket = DefaultSocket
	}
	flags := root.PersistentFlags()
	flags.StringVarP(&a.output, "output", "o", "table", "how to print: `FORM` is table, json or yaml")
	flags.StringVar(&a.socket, "socket", socket, "`PATH` of tenond's socket, or $"+socketVariable)
	flags.DurationVar(&a.timeout, "timeout", 0, "give up after this `TIME`, such as 30s; 0: never")
	flags.BoolVar(&a.async, "async", false, "do not wait for the end of the operation")
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "no progress")
	flags.StringVar(&a.requestID, "request-id", "", "the `ID` of this request; a repeat with the same id is the same operation")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return err })
	root.AddCommand(a.host(), a.driver(), a.device(), a.volume(), a.snapshot(), a.copy(), a.domain(), a.disk(), a.maintenance(), a.operation(), a.hook())
	must(root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp)))
	root.SetUsageTemplate(usage)
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	tidy(root)
	return root
}

// tidy sets what is alike for all commands.
func tidy(cmd *cobra.Command) {
	cmd.DisableFlagsInUseLine = true
	for _, c := range cmd.Commands() {
		tidy(c)
	}
}

// version returns the version that the build recorded.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(unknown)"
	}
	return info.Main.Version
}

// prepare looks at the flags that all commands share.
func (a *app) prepare(cmd *cobra.Command) error {
	if !slices.Contains([]string{"table", "json", "yaml"}, a.output) {
		return fmt.Errorf("--output %q: expected table, json or yaml", a.output)
	}
	if a.timeout < 0 {
		return fmt.Errorf("--timeout %v: expected a time above zero", a.timeout)
	}
	if a.requestID == "" {
		a.requestID = newRequestID()
	}
	if a.timeout > 0 {
		ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
		context.AfterFunc(ctx, cancel)
		cmd.SetContext(ctx)
	}
	return nil
}

// noun returns the command that holds the verbs of one noun.
func noun(name, short string, verbs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: name + " VERB", Short: short, RunE: missingVerb, Args: cobra.ArbitraryArgs}
	cmd.AddCommand(verbs...)
	return cmd
}

// missingVerb answers a noun without a verb, or with a wrong one.
func missingVerb(cmd *cobra.Command, args []string) error {
	var verbs []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			verbs = append(verbs, c.Name())
		}
	}
	what := "verb"
	if !cmd.HasParent() {
		what = "noun"
	}
	if len(args) == 0 {
		return usagef("%s needs a %s: %s", cmd.CommandPath(), what, strings.Join(verbs, ", "))
	}
	cmd.SuggestionsMinimumDistance = 2
	near := ""
	if guesses := cmd.SuggestionsFor(args[0]); len(guesses) > 0 {
		near = "; did you mean " + strings.Join(guesses, " or ") + "?"
	}
	return usagef("%q is not a %s of %s%s (there are %s)", args[0], what, cmd.CommandPath(), near, strings.Join(verbs, ", "))
}

// usageError is a mistake on the command line, found by us.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// ranError is an error of a command whose command line was in order. What cobra
// reports itself is never one.
type ranError struct{ error }

func (r ranError) Unwrap() error { return r.error }

// run makes cobra's RunE of a verb.
func run(verb func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := verb(cmd.Context(), args)
		if _, isUsage := errors.AsType[usageError](err); err == nil || isUsage {
			return err
		}
		return ranError{err}
	}
}

// report prints the error, if there is one, and returns the exit code.
func (a *app) report(cmd *cobra.Command, err error) int {
	if err == nil {
		return exitOK
	}
	ran, ok := errors.AsType[ranError](err)
	if !ok {
		fmt.Fprintf(a.env.Err, "error: %s\ntry: %s --help\n", strings.TrimSpace(err.Error()), cmd.CommandPath())
		return exitUsage
	}
	if errors.Is(err, errSilent) {
		return exitFailure
	}
	f := a.explain(failure.Of(ran.error))
	fmt.Fprint(a.env.Err, show.Failure(f))
	if f.GetCode() == tenonv1.ErrorCode_ERROR_CODE_INVALID {
		return exitUsage
	}
	return exitFailure
}

// errSilent fails a command that has printed already what is wrong.
var errSilent = errors.New("already told")

// failf returns a failure found on this side of the socket.
func failf(code tenonv1.ErrorCode, try, format string, args ...any) error {
	return &failure.Error{Failure: &tenonv1.Failure{Code: code, Message: fmt.Sprintf(format, args...), Try: try}}
}

// must stops tenonctl for a mistake in its own grammar.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
