package socket

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/livetemplate/livetemplate"

	"presence/internal/nonblock"
)

func TestAllowedFramesArePassedOnInOrder(t *testing.T) {
	f := serve(t, Options{})
	p, c := f.join()
	connected := c.Heard()
	p.send(`{"action":"Mount","data":{"room":"other"}}`)
	p.send(`no JSON`)
	p.send(`{"submitter":"join","data":{"username":42},"action":"join","entries":[]}`)
	p.send(`{"action":"leave"}`)
	for _, want := range []string{
		`{"action":"join","data":{"username":42},"submitter":"join"}`,
		`{"action":"leave","data":{}}`,
	} {
		if got := next(t, f.got); got != want {
			t.Errorf("passed on %s, want %s", got, want)
		}
	}
	for _, reason := range []string{rejectAction, rejectMalformed} {
		if n := f.metric("presence_socket_frames_rejected_total", reason); n != 1 {
			t.Errorf("frames_rejected_total{reason=%q} is %v, want 1", reason, n)
		}
	}
	if !c.Heard().After(connected) {
		t.Error("the messages were not heard")
	}
}

func TestAFrameInPiecesIsOne(t *testing.T) {
	f := serve(t, Options{})
	p, _ := f.join()
	w, err := p.NextWriter(websocket.TextMessage)
	if err != nil {
		t.Fatal(err)
	}
	for _, piece := range []string{`{"action":"jo`, `in","data":{"x":"`, strings.Repeat("y", 6000), `"}}`} {
		if _, err := w.Write([]byte(piece)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got := next(t, f.got); len(got) != len(`{"action":"join","data":{"x":""}}`)+6000 {
		t.Errorf("passed on %.60s…, %d bytes", got, len(got))
	}
}

func TestPingIsAnsweredBeyondTheRateAndNeverPassedOn(t *testing.T) {
	f := serve(t, Options{Rate: 1e-6, Burst: 1})
	p, _ := f.join()
	p.send(`{"action":"join"}`)
	for range pingBurst - 1 {
		p.send(`{"action":"__ping__"}`)
		p.wantFrame(`{"pong":true}`)
	}
	if got := next(t, f.got); got != `{"action":"join","data":{}}` || len(f.got) > 0 {
		t.Errorf("passed on %s and %d more", got, len(f.got))
	}
}

func TestWhatTheServerDoesNotBear(t *testing.T) {
	text, binary := websocket.TextMessage, websocket.BinaryMessage
	times := func(n, kind int, frame string) func(*peer) {
		return func(p *peer) {
			for range n {
				if p.WriteMessage(kind, []byte(frame)) != nil {
					return // closed already: wantClose says whether rightly
				}
			}
		}
	}
	for name, test := range map[string]struct {
		do     func(*peer)
		code   int
		reason string
		reject string
	}{
		"binary":         {times(1, binary, `{"action":"join"}`), 1003, reasonProtocol, rejectBinary},
		"bad UTF-8":      {times(1, text, "{\"action\":\"join\",\"data\":{\"x\":\"\xff\"}}"), 1007, reasonProtocol, rejectUTF8},
		"a byte too big": {times(1, text, strings.Repeat("x", DefaultMaxMessage+1)), 1009, reasonTooBig, rejectTooBig},
		"far too big":    {times(1, text, strings.Repeat("x", 1<<20)), 1009, reasonTooBig, rejectTooBig},
		"flood of actions": {
			times(DefaultBurst+2*excessBurst, text, `{"action":"join"}`), 1008, reasonRate, rejectRate,
		},
		"flood of rubbish": {
			times(DefaultBurst+2*excessBurst, text, `rubbish`), 1008, reasonRate, rejectRate,
		},
		"flood of pings": {
			times(2*pingBurst, text, `{"action":"__ping__"}`), 1008, reasonRate, rejectPing,
		},
		"flood of control pings": {
			times(2*pingBurst, websocket.PingMessage, `x`), 1008, reasonRate, rejectPing,
		},
		"no mask": {
			func(p *peer) { _, _ = p.NetConn().Write([]byte{0x81, 0x02, '{', '}'}) }, 1002, reasonProtocol, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t, Options{})
			p, _ := f.join()
			test.do(p)
			p.wantClose(test.code)
			f.wantEnd(test.reason)
			if test.reject == "" {
				return
			}
			if n := f.metric("presence_socket_frames_rejected_total", test.reject); n == 0 {
				t.Errorf("frames_rejected_total{reason=%q} is 0", test.reject)
			}
		})
	}
}

func TestTheLongestMessageIsPassedOn(t *testing.T) {
	f := serve(t, Options{})
	p, _ := f.join()
	frame := `{"action":"join","data":{"x":""}}`
	frame = strings.Replace(frame, `""`, `"`+strings.Repeat("x", DefaultMaxMessage-len(frame))+`"`, 1)
	p.send(frame)
	if got := next(t, f.got); got != frame {
		t.Errorf("passed on %d bytes of %d", len(got), len(frame))
	}
}

func TestALimitedActionIsAnsweredSoThatItsFormIsReleased(t *testing.T) {
	f := serve(t, Options{Rate: 1e-6, Burst: 2})
	p, _ := f.join()
	p.send(`{"action":"join"}`)
	p.send(`{"action":"leave"}`)
	p.send(`{"action":"Mount"}`) // nobody waits for an answer to this
	p.send(`{"action":"leave"}`)
	p.wantFrame(`{"tree":{},"meta":{"success":false,"errors":{"_rate_limit":"Too many requests. Please slow down."},"action":"leave"}}`)
	next(t, f.got)
	next(t, f.got)
	if n := len(f.got); n != 0 {
		t.Errorf("%d limited messages were passed on", n)
	}
	if n := f.metric("presence_socket_frames_rejected_total", rejectRate); n != 2 {
		t.Errorf("frames_rejected_total{reason=rate} is %v, want 2", n)
	}
}

func TestControlPingIsAnsweredAndHeard(t *testing.T) {
	f := serve(t, Options{})
	p, c := f.join()
	before := c.Heard()
	pongs := make(chan string, 1)
	p.SetPongHandler(func(payload string) error {
		pongs <- payload
		return nil
	})
	if err := p.WriteControl(websocket.PingMessage, []byte("abc"), time.Time{}); err != nil {
		t.Fatal(err)
	}
	p.send(`{"action":"__ping__"}`)
	p.wantFrame(`{"pong":true}`)
	if got := next(t, pongs); got != "abc" {
		t.Errorf("got the pong %q, want abc", got)
	}
	if !c.Heard().After(before) {
		t.Error("the ping was not heard")
	}
}

// Pongs that a peer sends by itself, or in answer to an earlier ping, do not count as an
// answer now.
func TestOnlyTheAnswerToAPingIsOne(t *testing.T) {
	f := serve(t, Options{})
	p, c := f.join()
	pings := make(chan string, 1)
	p.SetPingHandler(func(payload string) error {
		pings <- payload
		return nil
	})
	pong := func(payload string) {
		t.Helper()
		if err := p.WriteControl(websocket.PongMessage, []byte(payload), time.Time{}); err != nil {
			t.Fatal(err)
		}
		p.send(`{"action":"__ping__"}`)
		p.wantFrame(`{"pong":true}`) // all before has been read
	}
	pong("")
	pong("\x7f\xff\xff\xff\xff\xff\xff\xff") // a ping to come
	pong("\xff\xff\xff\xff\xff\xff\xff\xff")
	if at := c.Answered(); !at.IsZero() {
		t.Fatalf("answered %v before any ping", at)
	}
	var payloads []string
	asked := make([]time.Time, 2)
	for i := range asked {
		asked[i] = time.Now()
		if err := c.Ping(); err != nil {
			t.Fatal(err)
		}
		p.send(`{"action":"__ping__"}`)
		p.wantFrame(`{"pong":true}`)
		payloads = append(payloads, next(t, pings))
	}
	pong(payloads[0])
	if at := c.Answered(); at.Before(asked[0]) || !at.Before(asked[1]) {
		t.Errorf("the first ping was answered: %v, asked at %v", at, asked)
	}
	pong(payloads[1])
	pong(payloads[0])
	if at := c.Answered(); at.Before(asked[1]) {
		t.Errorf("the second ping was answered: %v, asked at %v", at, asked)
	}
}

func TestPeersCloseIsAnsweredAndReturned(t *testing.T) {
	f := serve(t, Options{})
	p, _ := f.join()
	if err := p.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1001, "bye"), time.Time{}); err != nil {
		t.Fatal(err)
	}
	p.wantClose(1001)
	var closed *livetemplate.WSCloseError
	if err := next(t, f.errs); !errors.As(err, &closed) || *closed != (livetemplate.WSCloseError{Code: 1001, Text: "bye"}) {
		t.Errorf("ReadMessage returned %v", err)
	}
	f.wantEnd(reasonClient)
}

func TestPeersEndWithoutACloseFrameIs1006(t *testing.T) {
	f := serve(t, Options{})
	p, c := f.join()
	p.halfClose()
	var closed *livetemplate.WSCloseError
	if err := next(t, f.errs); !errors.As(err, &closed) || closed.Code != 1006 {
		t.Errorf("ReadMessage returned %v, want close 1006", err)
	}
	p.wantGone() // ReadMessage itself closed the socket: the test's reader does not
	f.wantEnd(reasonClient)
	for range 2 {
		if err := c.Close(); err != nil {
			t.Errorf("Close returned %v", err)
		}
	}
	for what, err := range map[string]error{
		"WriteMessage": c.WriteMessage(websocket.TextMessage, []byte(`{"tree":{"0":"1"}}`)),
		"Ping":         c.Ping(),
		"CloseWith":    c.CloseWith(1000, ""),
	} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s on a closed connection returned %v, want net.ErrClosed", what, err)
		}
	}
	if n := f.up.Len(); n != 0 {
		t.Errorf("Len is %d", n)
	}
}

func TestWritesAreCuredOrderedAndWhole(t *testing.T) {
	f := serve(t, Options{})
	p, c := f.join()
	large := `{"tree":{"0":"` + strings.Repeat("x", 300_000) + `"}`
	for _, frame := range []string{
		`{"tree":{"0":"1"},"meta":{"success":true,"errors":null}}`,
		`{"tree":{},"meta":{"success":true,"errors":null}}`,
		large + `,"meta":{"success":true,"errors":null}}`,
		large + `,"meta":{"success":true,"errors":{},"action":"join"}}`,
		`{"tree":null,"meta":{"success":false,"errors":{}}}`,
	} {
		if err := c.WriteMessage(websocket.TextMessage, []byte(frame)); err != nil {
			t.Fatal(err)
		}
	}
	p.wantFrame(`{"tree":{"0":"1"}}`)
	p.wantFrame(large + `}`)
	p.wantFrame(large + `,"meta":{"success":true,"errors":{},"action":"join"}}`)
	p.wantFrame(`{"tree":{},"meta":{"success":false,"errors":{}}}`)
}

func TestWritesOfManyGoroutinesAreWhole(t *testing.T) {
	f := serve(t, Options{})
	p, c := f.join()
	const each = 10
	for i := range 4 {
		go func() {
			for j := range each {
				_ = c.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `{"tree":{"%d":"%d"}}`, i, j))
				_ = c.Ping()
			}
		}()
	}
	counts := map[byte]int{}
	for range 4 * each {
		var i, j int
		frame := p.read()
		if _, err := fmt.Sscanf(frame, `{"tree":{"%d":"%d"}}`, &i, &j); err != nil || counts[byte(i)] != j {
			t.Fatalf("got %s after %v", frame, counts)
		}
		counts[byte(i)]++
	}
}

func TestCloseFrameOfTheFrameworkIsSentAfterWhatWasQueued(t *testing.T) {
	f := serve(t, Options{})
	p, c := f.join()
	_ = c.WriteMessage(websocket.TextMessage, []byte(`{"tree":{"0":"1"}}`))
	if err := c.WriteMessage(livetemplate.WSCloseMessage, livetemplate.WSFormatCloseMessage(1001, "Server shutting down")); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil { // does not cut the close short
		t.Fatal(err)
	}
	if err := c.WriteMessage(websocket.TextMessage, []byte(`{"tree":{"0":"2"}}`)); err != nil {
		t.Errorf("WriteMessage while closing returned %v", err)
	}
	p.wantFrame(`{"tree":{"0":"1"}}`)
	p.wantClose(1001)
	f.wantEnd(reasonDrain)
	if err := next(t, f.errs); !errors.Is(err, net.ErrClosed) {
		t.Errorf("ReadMessage returned %v, want net.ErrClosed", err)
	}
}

func TestCloseDeliversWhatWasQueued(t *testing.T) {
	f := serve(t, Options{})
	p, c := f.join()
	frame := []byte(`{"tree":{"0":"` + strings.Repeat("x", 4<<20) + `"}}`)
	_ = c.WriteMessage(websocket.TextMessage, frame)
	soon(t, "Close", func() { _ = c.Close() })
	if got := p.read(); got != string(frame) {
		t.Errorf("got %d bytes of %d", len(got), len(frame))
	}
	p.wantGone()
	f.wantEnd(reasonError)
}

func TestCloseOfAnIdleConnectionClosesAtOnce(t *testing.T) {
	f := serve(t, Options{})
	p, c := f.join()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	p.wantGone()
	f.wantEnd(reasonError)
}

func TestAPeerThatIgnoresTheCloseFrameIsClosedAnyway(t *testing.T) {
	f := serve(t, Options{})
	p, c := f.join()
	if err := c.CloseWith(websocket.CloseTryAgainLater, strings.Repeat("ä", 100)); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWith(1000, "again"); err != nil {
		t.Errorf("the second CloseWith returned %v", err)
	}
	p.wantGone() // below the WebSocket: the frame is not answered
	f.wantEnd(reasonCapacity)
	next(t, f.errs)
}

func TestWriteToAStalledPeerReturnsAndDropsItLater(t *testing.T) {
	f := serve(t, Options{WriteTimeout: 300 * time.Millisecond})
	_, c := f.joinTight()
	soon(t, "WriteMessage", func() {
		if err := c.WriteMessage(websocket.TextMessage, huge); err != nil {
			t.Error(err)
		}
		if err := c.Ping(); err != nil {
			t.Error(err)
		}
	})
	f.wantEnd(reasonSlow)
	next(t, f.errs) // the read ended with it
	if err := c.WriteMessage(websocket.TextMessage, []byte(`{}`)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("WriteMessage returned %v, want net.ErrClosed", err)
	}
}

func TestAPeerThatFillsItsQueueIsDroppedAtOnce(t *testing.T) {
	for name, frame := range map[string][]byte{
		"by frames": []byte(`{"tree":{"0":"1"}}`),
		"by bytes":  bytes.Repeat([]byte("x"), maxQueueBytes/2),
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t, Options{WriteTimeout: time.Hour})
			_, c := f.joinTight()
			_ = c.WriteMessage(websocket.TextMessage, huge)
			var err error
			for range maxQueueFrames + 2 { // one may be in writing instead
				if err = c.WriteMessage(websocket.TextMessage, frame); err != nil {
					break
				}
			}
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("the last WriteMessage returned %v, want net.ErrClosed", err)
			}
			f.wantEnd(reasonSlow)
		})
	}
}

func TestPingsDoNotPileUp(t *testing.T) {
	f := serve(t, Options{WriteTimeout: time.Hour})
	p, c := f.joinTight()
	_ = c.WriteMessage(websocket.TextMessage, huge)
	soon(t, "Ping", func() {
		for range 10 * maxQueueFrames {
			if err := c.Ping(); err != nil {
				t.Error(err)
			}
		}
	})
	pings := make(chan string, 1000)
	p.SetPingHandler(func(string) error {
		pings <- ""
		return nil
	})
	p.read()
	_ = c.WriteMessage(websocket.TextMessage, []byte(`{"tree":{"0":"1"}}`))
	p.read()
	if n := len(pings); n < 1 || n > 2 {
		t.Errorf("got %d pings, want one or two", n)
	}
}

// The attack: a peer stops reading and then closes its own side. The end must close the
// socket, although a write to it is stuck.
func TestHalfCloseOfAStalledPeerEndsItsWrites(t *testing.T) {
	f := serve(t, Options{WriteTimeout: time.Hour})
	p, c := f.joinTight()
	_ = c.WriteMessage(websocket.TextMessage, huge)
	p.halfClose()
	f.wantEnd(reasonClient)
	next(t, f.errs)
	// The write has failed: goleak finds its goroutine if not.
}

func TestFrameThatTheSocketTakesIsWrittenAtOnce(t *testing.T) {
	if !nonblock.CanAttempt {
		t.Skip("writing may wait on this system")
	}
	f := serve(t, Options{})
	p, c := f.join()
	large := strings.Repeat("x", 8<<20) // more than the socket takes
	for range 2 {                       // after a write that had to wait, too
		written := false
		if err := c.Send([]byte("small"), func() { written = true }); err != nil || !written {
			t.Fatalf("written at once: %v, %v", written, err)
		}
		p.wantFrame("small")
		done := make(chan bool)
		if err := c.Send([]byte(large), func() { close(done) }); err != nil {
			t.Fatal(err)
		}
		if got := p.read(); got != large {
			t.Fatalf("got %d bytes of %d", len(got), len(large))
		}
		<-done
		for idle := false; !idle; runtime.Gosched() { // its goroutine ends
			c.mu.Lock()
			idle = !c.writing
			c.mu.Unlock()
		}
	}
}
