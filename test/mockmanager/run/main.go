// SPDX-License-Identifier: Apache-2.0

// Command run serves a mock management server: a scripted one, or one that plays a record back.
//
//	go run ./test/mockmanager/run -listen unix:/run/m.sock -script test/mockmanager/testdata/whole.yaml -record session.jsonl
//	go run ./test/mockmanager/run -listen unix:/run/m.sock -replay session.jsonl
//
// Every message is printed as one line of JSON. A script that succeeded ends it with 0, one that did not with 1; with
// -stay, and without a script, it serves until it is interrupted.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/tenon-storage/tenon/test/mockmanager"
)

func main() {
	listen := flag.String("listen", "", "serve on unix:/PATH or HOST:PORT")
	script := flag.String("script", "", "carry out the scenario in this `FILE`")
	record := flag.String("record", "", "write every message to this `FILE` as well")
	replay := flag.String("replay", "", "play back the record in this `FILE` instead")
	speed := flag.Float64("speed", 1, "with -replay: how much faster than recorded; 0: without pauses")
	id := flag.String("id", "", "the manager's id")
	term := flag.Uint64("term", 0, "the manager's term; 0: 2")
	takeOver := flag.Bool("take-over", true, "go on in a later term where an agent follows one")
	stay := flag.Bool("stay", false, "serve on after the script")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case *listen == "":
		err = errors.New("say where to serve with -listen unix:/PATH or -listen 127.0.0.1:PORT")
	case *replay != "":
		err = playBack(ctx, *listen, *replay, *speed)
	default:
		o := mockmanager.Options{Listen: *listen, ID: *id, Term: *term, TakeOver: *takeOver}
		err = serve(ctx, o, *script, *record, *stay || *script == "")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mock manager:", err)
		os.Exit(1)
	}
}

func playBack(ctx context.Context, listen, record string, speed float64) error {
	f, err := os.Open(record)
	if err != nil {
		return err
	}
	said, err := mockmanager.ReadRecord(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return mockmanager.Replay(ctx, listen, said, speed)
}

func serve(ctx context.Context, o mockmanager.Options, script, record string, stay bool) (err error) {
	var scenario mockmanager.Script
	if script != "" {
		text, err := os.ReadFile(script)
		if err != nil {
			return err
		}
		if scenario, err = mockmanager.ReadScript(text); err != nil {
			return fmt.Errorf("%s: %w", script, err)
		}
	}
	o.Record = os.Stdout
	if record != "" {
		f, err := os.Create(record)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		o.Record = io.MultiWriter(os.Stdout, f)
	}
	m, err := mockmanager.Start(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Stop()) }()
	fmt.Fprintln(os.Stderr, "mock manager: serves on", m.Address())
	if err := m.Run(ctx, scenario, func(step string) { fmt.Fprintln(os.Stderr, "mock manager:", step) }); err != nil {
		return err
	}
	if stay {
		<-ctx.Done()
	}
	return nil
}
