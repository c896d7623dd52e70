// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/cmd/tenonctl/show"
)

// meter shows how far work is. A bar moves on a terminal; elsewhere a line is
// written now and then, so that logs stay short.
type meter interface {
	show(op *tenonv1.Operation)
	bytes(what string, done, total int64)
	away()
	close() // may be repeated
}

func (a *app) meter() meter {
	switch {
	case a.quiet:
		return quietMeter{}
	case a.env.ErrIsTerminal:
		return &bar{out: a.env.Err}
	}
	return &lines{out: a.env.Err, now: a.env.Now, last: a.env.Now()}
}

type quietMeter struct{}

func (quietMeter) show(*tenonv1.Operation)    {}
func (quietMeter) bytes(string, int64, int64) {}
func (quietMeter) away()                      {}
func (quietMeter) close()                     {}

// Between two lines passes at least shortPause, so that quick work writes none,
// and at most longPause, so that nobody wonders whether it goes on.
const (
	shortPause = 2 * time.Second
	longPause  = 10 * time.Second
)

// lines writes a line for each tenth of the bytes, at those intervals.
type lines struct {
	out   io.Writer
	now   func() time.Time
	last  time.Time // when the last line was written, or the work began
	tenth int64
	gone  bool
}

func (l *lines) show(op *tenonv1.Operation) {
	l.gone = false
	what := op.GetKind() + " " + show.Short(op.GetSubject())
	if step := op.GetStep(); step != "" {
		what += ": " + step
	}
	l.progress(what, op.GetProgress())
}

func (l *lines) bytes(what string, done, total int64) {
	l.progress(what, &tenonv1.Progress{Done: done, Total: total})
}

func (l *lines) progress(what string, p *tenonv1.Progress) {
	waited := l.now().Sub(l.last)
	tenth := l.tenth
	if total := p.GetTotal(); total > 0 {
		tenth = p.GetDone() * 10 / total
	}
	if waited < longPause && (waited < shortPause || tenth == l.tenth) {
		return
	}
	l.last, l.tenth = l.now(), tenth
	if text := show.Progress(p); text != "" {
		what += ": " + text
	}
	fmt.Fprintln(l.out, what)
}

func (l *lines) away() {
	if !l.gone {
		fmt.Fprintln(l.out, "tenond went away; waiting for it to come back")
	}
	l.gone = true
}

func (l *lines) close() {}

// barDelay keeps work that is over at once from flashing a bar.
const barDelay = 300 * time.Millisecond

// bar is a bar on a terminal. It appears when the work lasts.
type bar struct {
	out io.Writer

	mu    sync.Mutex // guards what follows: mpb draws in a goroutine of its own
	label string
	all   *mpb.Progress
	one   *mpb.Bar
	delay *time.Timer // until the bar appears
	total int64
}

func (b *bar) show(op *tenonv1.Operation) {
	label := op.GetKind() + " " + show.Short(op.GetSubject())
	if op.GetStep() != "" {
		label += ": " + op.GetStep()
	}
	b.move(label, op.GetProgress().GetDone(), op.GetProgress().GetTotal())
}

func (b *bar) bytes(what string, done, total int64) { b.move(what, done, total) }

func (b *bar) away() { b.setLabel("tenond went away; waiting for it to come back") }

func (b *bar) setLabel(label string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.label = label
}

func (b *bar) move(label string, done, total int64) {
	b.setLabel(label)
	if b.all == nil {
		b.start(total)
	}
	if total != b.total {
		b.total = total
		b.one.SetTotal(total, false)
	}
	b.one.SetCurrent(done)
}

func (b *bar) start(total int64) {
	b.total = total
	appear := make(chan struct{})
	b.delay = time.AfterFunc(barDelay, func() { close(appear) })
	b.all = mpb.New(mpb.WithOutput(b.out), mpb.WithRenderDelay(appear), mpb.WithWidth(30), mpb.WithRefreshRate(150*time.Millisecond))
	b.one = b.all.New(total, mpb.BarStyle().Lbound("[").Filler("=").Tip(">").Padding(" ").Rbound("]"),
		mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.label + " "
		})),
		mpb.AppendDecorators(decor.Any(counters), decor.Elapsed(decor.ET_STYLE_GO, decor.WC{W: 5})),
	)
}

// counters shows the numbers behind the bar.
func counters(s decor.Statistics) string {
	text := show.Progress(&tenonv1.Progress{Done: s.Current, Total: max(0, s.Total)})
	if text == "" {
		return ""
	}
	return " " + text + " "
}

func (b *bar) close() {
	if b.all == nil {
		return
	}
	b.delay.Stop()
	b.one.Abort(true)
	b.all.Wait()
	b.all = nil
}
