// SPDX-License-Identifier: Apache-2.0

// Command writer runs inside the test guest and never trusts its disk: it writes
// blocks at random places, past the guest's cache, reads blocks back that it
// wrote before, and keeps count of what was wrong and how long the longest
// request took.
//
//	writer start DISK    write in the background until told to stop
//	writer status        print what happened as JSON; the longest request is since the last status
//	writer stop          end, verify every block that was written, and print the same with the disk's checksum
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
	"unsafe"
)

const (
	blockSize = 4096
	socket    = "/run/writer.sock"
	pace      = time.Millisecond // between two requests, so that the guest has time for other things
	syncEvery = 64               // requests between two flushes
	sweep     = 64               // blocks that are read at once when all are verified
)

func main() {
	if err := command(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "writer:", err)
		os.Exit(1)
	}
}

func command(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "start":
		return start(args[1])
	case len(args) == 2 && args[0] == "run":
		return run(args[1])
	case len(args) == 1 && (args[0] == "status" || args[0] == "stop"):
		return ask(args[0])
	}
	return errors.New("expected start DISK, status or stop")
}

// start runs the writer in the background and returns when it answers.
func start(disk string) error {
	ready, told, err := os.Pipe()
	if err != nil {
		return err
	}
	c := exec.Command("/proc/self/exe", "run", disk)
	c.ExtraFiles = []*os.File{told}
	c.Stderr = told
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := errors.Join(c.Start(), told.Close()); err != nil {
		return err
	}
	said, err := io.ReadAll(ready)
	if err == nil && string(said) != "ready" {
		err = errors.New(string(said))
	}
	return err
}

// status is what the writer tells.
type status struct {
	Writes    uint64 `json:"writes"`
	Verified  uint64 `json:"verified"`
	Errors    uint64 `json:"errors"`
	First     string `json:"first,omitempty"` // the first error
	LongestUS int64  `json:"longest_us"`
	Sum       string `json:"sum,omitempty"`
}

// writer owns the disk; one goroutine, which also answers questions.
type writer struct {
	disk    *os.File
	blocks  uint64
	written []uint32 // how often each block was written
	buf     []byte   // aligned for direct I/O
	want    []byte
	random  *rand.Rand
	status
}

func run(disk string) error {
	f, err := os.OpenFile(disk, os.O_RDWR|syscall.O_DIRECT, 0)
	if err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	_ = os.Remove(socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	w := &writer{
		disk: f, blocks: uint64(size) / blockSize, buf: aligned(1), want: make([]byte, blockSize),
		random: rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano()))),
	}
	w.written = make([]uint32, w.blocks)
	signal.Ignore(syscall.SIGHUP)
	asked := make(chan net.Conn)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			asked <- c
		}
	}()
	told := os.NewFile(3, "told")
	if _, err := told.WriteString("ready"); err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_ = syscall.Dup2(int(null.Fd()), 2) // start reads until nobody has its pipe open
	if err := told.Close(); err != nil {
		return err
	}
	w.serve(asked)
	return nil
}

func (w *writer) serve(asked <-chan net.Conn) {
	tick := time.NewTicker(pace)
	for {
		select {
		case c := <-asked:
			if w.answer(c) {
				return
			}
		case <-tick.C:
			w.request()
		}
	}
}

// answer answers a question and reports whether it was the last.
func (w *writer) answer(c net.Conn) (last bool) {
	defer c.Close()
	question := make([]byte, 8)
	n, _ := c.Read(question)
	last = string(question[:n]) == "stop"
	if last {
		w.verifyAll()
	}
	_ = json.NewEncoder(c).Encode(w.status)
	w.LongestUS = 0
	return last
}

// request writes one block, or reads back one that was written.
func (w *writer) request() {
	block := w.random.Uint64N(w.blocks)
	began := time.Now()
	switch {
	case w.random.IntN(4) == 0 && w.written[block] > 0:
		w.verify(block)
	default:
		w.written[block]++
		fill(w.buf, block, w.written[block])
		_, err := w.disk.WriteAt(w.buf, int64(block)*blockSize)
		w.Writes++
		w.failed("write", block, err)
		if w.Writes%syncEvery == 0 {
			w.failed("flush", block, w.disk.Sync())
		}
	}
	w.LongestUS = max(w.LongestUS, time.Since(began).Microseconds())
}

func (w *writer) verify(block uint64) {
	_, err := w.disk.ReadAt(w.buf, int64(block)*blockSize)
	w.failed("read", block, err)
	if err == nil {
		w.compare(block, w.buf)
	}
}

// compare sees whether a block holds what was written to it last.
func (w *writer) compare(block uint64, got []byte) {
	fill(w.want, block, w.written[block])
	if !bytes.Equal(got, w.want) {
		w.failed("compare", block, fmt.Errorf("it is not what was written as number %d", w.written[block]))
	}
	w.Verified++
}

func (w *writer) failed(what string, block uint64, err error) {
	if err == nil {
		return
	}
	if w.Errors++; w.Errors == 1 {
		w.First = fmt.Sprintf("%s block %d: %v", what, block, err)
	}
}

// verifyAll reads the whole disk, compares what was written and sums all of it.
func (w *writer) verifyAll() {
	w.failed("flush", 0, w.disk.Sync())
	sum := sha256.New()
	buf := aligned(sweep)
	for first := uint64(0); first < w.blocks; first += sweep {
		n := min(sweep, w.blocks-first)
		part := buf[:n*blockSize]
		_, err := w.disk.ReadAt(part, int64(first)*blockSize)
		w.failed("read", first, err)
		for i := range n {
			if w.written[first+i] > 0 && err == nil {
				w.compare(first+i, part[i*blockSize:][:blockSize])
			}
		}
		sum.Write(part)
	}
	w.Sum = hex.EncodeToString(sum.Sum(nil))
}

// fill makes the content of a block, which depends on its place and on how often
// it was written.
func fill(buf []byte, block uint64, times uint32) {
	x := block<<20 ^ uint64(times)
	for i := 0; i < len(buf); i += 8 {
		x += 0x9e3779b97f4a7c15 // splitmix64
		z := (x ^ x>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		binary.LittleEndian.PutUint64(buf[i:], z^z>>31)
	}
}

// aligned returns a buffer for that many blocks at an address that direct I/O takes.
func aligned(blocks int) []byte {
	size := blocks * blockSize
	buf := make([]byte, size+blockSize)
	off := blockSize - int(uintptr(unsafe.Pointer(&buf[0]))%blockSize)
	return buf[off : off+size : off+size]
}

// ask puts a question to the writer that runs and prints its answer.
func ask(question string) error {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := io.WriteString(c, question); err != nil {
		return err
	}
	_, err = io.Copy(os.Stdout, c)
	return err
}
