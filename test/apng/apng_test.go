package apng

import (
	"bytes"
	"encoding/binary"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"testing"
	"time"
)

// page is a white picture with some black parts.
func page(black ...image.Rectangle) *image.RGBA {
	p := image.NewRGBA(image.Rect(0, 0, 40, 30))
	draw.Draw(p, p.Bounds(), image.White, image.Point{}, draw.Src)
	for _, r := range black {
		draw.Draw(p, r, image.Black, image.Point{}, draw.Src)
	}
	return p
}

// Played by the rules of the format, the file shows the pictures that were added, each for
// its time.
func TestFramesAreWhatWasAdded(t *testing.T) {
	pictures := []*image.RGBA{page(), page(image.Rect(5, 6, 9, 8)), page(image.Rect(5, 6, 9, 8), image.Rect(39, 29, 40, 30)), page()}
	delays := []time.Duration{time.Second, 40 * time.Millisecond, 250 * time.Millisecond, 2 * time.Second}
	var m Movie
	for i, picture := range pictures {
		for range 2 { // in halves, which are one frame
			if err := m.Add(picture, delays[i]/2); err != nil {
				t.Fatal(err)
			}
		}
	}
	var file bytes.Buffer
	if _, err := m.WriteTo(&file); err != nil {
		t.Fatal(err)
	}
	if first, err := png.Decode(bytes.NewReader(file.Bytes())); err != nil || !same(first, pictures[0]) {
		t.Errorf("for programs that know no frames it is another picture, or none: %v", err)
	}

	var control []byte
	shown, at, sequence := page(), 0, uint32(0)
	inOrder := func(body []byte) []byte {
		if got := binary.BigEndian.Uint32(body); got != sequence {
			t.Errorf("number %d comes where %d should", got, sequence)
		}
		sequence++
		return body[4:]
	}
	part := func(data []byte) {
		number := func(i int) int { return int(binary.BigEndian.Uint32(control[i:])) }
		width, height, x, y := number(0), number(4), number(8), number(12)
		var alone bytes.Buffer
		alone.WriteString(signature)
		writeChunk(&alone, "IHDR", uint32s(width, height), []byte{8, 2, 0, 0, 0})
		writeChunk(&alone, "IDAT", data)
		writeChunk(&alone, "IEND")
		picture, err := png.Decode(&alone)
		if err != nil {
			t.Fatal(err)
		}
		draw.Draw(shown, image.Rect(x, y, x+width, y+height), picture, image.Point{}, draw.Src)
		if !same(shown, pictures[at]) {
			t.Errorf("frame %d shows another picture", at)
		}
		numerator, denominator := binary.BigEndian.Uint16(control[16:]), binary.BigEndian.Uint16(control[18:])
		if got := time.Duration(numerator) * time.Second / time.Duration(denominator); got != delays[at] {
			t.Errorf("frame %d is shown for %v, want %v", at, got, delays[at])
		}
		at++
	}
	err := eachChunk(file.Bytes(), func(name string, body []byte) {
		switch name {
		case "fcTL":
			control = inOrder(body)
		case "IDAT":
			part(body)
		case "fdAT":
			part(inOrder(body))
		}
	})
	if err != nil || at != len(pictures) {
		t.Errorf("%d frames, %v", at, err)
	}
	if err := m.Add(image.NewRGBA(image.Rect(0, 0, 1, 1)), time.Second); err == nil {
		t.Error("a frame of another size is taken")
	}
}

func same(a, b image.Image) bool {
	for y := range b.Bounds().Dy() {
		for x := range b.Bounds().Dx() {
			if color.RGBAModel.Convert(a.At(x, y)) != color.RGBAModel.Convert(b.At(x, y)) {
				return false
			}
		}
	}
	return a.Bounds() == b.Bounds()
}
