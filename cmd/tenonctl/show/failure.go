// SPDX-License-Identifier: Apache-2.0

package show

import (
	"strings"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

// Failure prints why something did not work: one line, then one line for each
// mistake and each blocker where there are several, then what to try. That the
// request is invalid is not said where its one mistake is, nor a blocker twice.
func Failure(f *tenonv1.Failure) string {
	head := "error: " + oneLine(f.GetMessage())
	var more []string
	switch problems, blockers := f.GetProblems(), f.GetBlockers(); {
	case len(problems) == 1 && len(blockers) == 0:
		head = strings.TrimSuffix(strings.TrimSuffix(head, "invalid"), ": ") + ": " + problem(problems[0])
	case len(blockers) == 1 && len(problems) == 0 && strings.Contains(head, blockers[0].GetName()):
	case len(blockers) == 1 && len(problems) == 0:
		head += ": " + blocker(blockers[0])
	default:
		for _, p := range problems {
			more = append(more, "  "+problem(p))
		}
		for _, b := range blockers {
			more = append(more, "  blocked by "+blocker(b))
		}
	}
	if f.GetTry() != "" {
		more = append(more, "try: "+strings.TrimPrefix(oneLine(f.GetTry()), "see: "))
	}
	return strings.Join(append([]string{head}, more...), "\n") + "\n"
}

// Problems prints the answer of a validation.
func Problems(problems []*tenonv1.Problem) string {
	var b strings.Builder
	for _, p := range problems {
		b.WriteString(problem(p) + "\n")
	}
	return b.String()
}

func problem(p *tenonv1.Problem) string {
	text := strings.TrimPrefix(p.GetField()+": "+oneLine(p.GetMessage()), ": ")
	if p.GetWarning() {
		return "warning: " + text
	}
	return text
}

func blocker(b *tenonv1.Blocker) string { return b.GetKind() + " " + b.GetName() }

// oneLine keeps a message from breaking the shape of the output.
func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), " ")
}
