// Package apng writes moving pictures: PNG files with several frames, as browsers and
// GitHub show them (the APNG extension of PNG, third edition, chunks acTL, fcTL and
// fdAT). A frame holds only the part that differs from the one before.
package apng

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/draw"
	"image/png"
	"io"
	"time"
)

// Movie is frames of one size. The zero value has none.
type Movie struct {
	frames []frame
	last   *image.RGBA // as a whole
}

// frame is the part of a picture that differs from the one before.
type frame struct {
	at    image.Point
	size  image.Point
	data  []byte // as in IDAT
	delay time.Duration
}

// signature begins each PNG file.
const signature = "\x89PNG\r\n\x1a\n"

// errFrame is a picture that can't be a frame.
var errFrame = errors.New("apng: a frame that is empty, or of another size than the first")

// Add appends a picture without transparent parts, to be shown for a time. A picture that
// equals the last one lengthens the time of that.
func (m *Movie) Add(picture image.Image, d time.Duration) error {
	now := image.NewRGBA(image.Rectangle{Max: picture.Bounds().Size()})
	draw.Draw(now, now.Bounds(), picture, picture.Bounds().Min, draw.Src)
	part := now.Bounds()
	if m.last != nil {
		if m.last.Bounds() != now.Bounds() {
			return errFrame
		}
		part = changed(m.last, now)
	}
	if part.Empty() {
		if m.last == nil {
			return errFrame
		}
		m.frames[len(m.frames)-1].delay += d
		return nil
	}
	var file bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	if err := encoder.Encode(&file, now.SubImage(part)); err != nil {
		return fmt.Errorf("apng: %w", err)
	}
	var data []byte
	err := eachChunk(file.Bytes(), func(name string, body []byte) {
		if name == "IDAT" {
			data = append(data, body...)
		}
	})
	if err != nil {
		return err
	}
	m.frames, m.last = append(m.frames, frame{part.Min, part.Size(), data, d}), now
	return nil
}

// changed returns the rectangle outside of which two pictures are the same.
func changed(a, b *image.RGBA) image.Rectangle {
	var all image.Rectangle
	for y := range a.Bounds().Dy() {
		begin, end := y*a.Stride, (y+1)*a.Stride
		rowA, rowB := a.Pix[begin:end], b.Pix[begin:end]
		if bytes.Equal(rowA, rowB) {
			continue
		}
		from, to := 0, len(rowA)
		for rowA[from] == rowB[from] {
			from++
		}
		for rowA[to-1] == rowB[to-1] {
			to--
		}
		all = all.Union(image.Rect(from/4, y, (to+3)/4, y+1))
	}
	return all
}

// WriteTo writes the movie, which is shown again and again.
func (m *Movie) WriteTo(w io.Writer) (int64, error) {
	if m.last == nil {
		return 0, errFrame
	}
	var file bytes.Buffer
	file.WriteString(signature)
	size := m.last.Bounds().Size()
	const depth, colour = 8, 2 // bits, and RGB
	writeChunk(&file, "IHDR", uint32s(size.X, size.Y), []byte{depth, colour, 0, 0, 0})
	writeChunk(&file, "acTL", uint32s(len(m.frames), 0))
	sequence := 0
	next := func() []byte { sequence++; return uint32s(sequence - 1) }
	for i, f := range m.frames {
		delay := binary.BigEndian.AppendUint16(nil, uint16(min(f.delay.Milliseconds(), 1<<16-1))) //nolint:gosec // bounded
		delay = binary.BigEndian.AppendUint16(delay, 1000)                                        // of a second
		const keep, replace = 0, 0
		writeChunk(&file, "fcTL", next(), uint32s(f.size.X, f.size.Y, f.at.X, f.at.Y), delay, []byte{keep, replace})
		if i == 0 {
			writeChunk(&file, "IDAT", f.data)
		} else {
			writeChunk(&file, "fdAT", next(), f.data)
		}
	}
	writeChunk(&file, "IEND")
	n, err := file.WriteTo(w)
	if err != nil {
		return n, fmt.Errorf("apng: %w", err)
	}
	return n, nil
}

// uint32s are numbers as PNG writes them.
func uint32s(numbers ...int) []byte {
	var b []byte
	for _, n := range numbers {
		b = binary.BigEndian.AppendUint32(b, uint32(n)) //nolint:gosec // sizes of pictures
	}
	return b
}

// writeChunk writes a chunk of a PNG file.
func writeChunk(file *bytes.Buffer, name string, parts ...[]byte) {
	body := append([]byte(name), bytes.Join(parts, nil)...)
	file.Write(uint32s(len(body) - len(name)))
	file.Write(body)
	file.Write(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(body)))
}

// errChunk is a file that is not made of chunks.
var errChunk = errors.New("apng: no PNG file")

// eachChunk calls f with the chunks of a PNG file.
func eachChunk(file []byte, f func(name string, body []byte)) error {
	rest, ok := bytes.CutPrefix(file, []byte(signature))
	for ok && len(rest) >= 12 {
		n := int(binary.BigEndian.Uint32(rest))
		if n > len(rest)-12 {
			return errChunk
		}
		f(string(rest[4:8]), rest[8:8+n])
		rest = rest[12+n:]
	}
	if !ok || len(rest) > 0 {
		return errChunk
	}
	return nil
}
