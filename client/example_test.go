package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"presence/client"
	"presence/internal/app"
	"presence/test/outside"
)

// serve runs a server of the example's own, and returns a client of it.
func serve() (c *client.Client, stop func()) {
	config := app.Default()
	config.Listen, config.AdminListen = "127.0.0.1:0", ""
	a, err := app.NewOf(app.Parts{Assets: outside.Assets(), Pages: outside.Pages()}, config, slog.New(slog.DiscardHandler))
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- a.Run(ctx) }()
	transport := &http.Transport{}
	c, err = client.New("http://"+a.Addr(), client.Options{Key: a.RunKey(), HTTPClient: &http.Client{Transport: transport}})
	if err != nil {
		panic(err)
	}
	for _, err := c.Query(ctx, nil, nil); err != nil; _, err = c.Query(ctx, nil, nil) {
		time.Sleep(10 * time.Millisecond) // it has just been started
	}
	return c, func() {
		transport.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			panic(err)
		}
	}
}

// Somebody is in a room, for as long as the program wants.
func Example() {
	c, stop := serve() // client.New("http://localhost:8080", client.Options{Key: "psk_…"})
	defer stop()
	ctx := context.Background()

	ada, err := c.Join(ctx, "lobby", "backend-1", client.Presence{User: "42", Name: "Ada", Meta: json.RawMessage(`{"color":"teal"}`)})
	if err != nil {
		fmt.Println(err)
		return
	}
	for member, err := range c.Members(ctx, "lobby") {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(member.User, member.Name, string(member.Meta))
	}
	if err := ada.Leave(ctx); err != nil {
		fmt.Println(err)
	}
	// Output: 42 Ada {"color":"teal"}
}

// A program follows who is in a room.
func ExampleClient_Watch() {
	c, stop := serve()
	defer stop()
	ctx := context.Background()

	var room client.View
	for event, err := range c.Watch(ctx, "lobby", client.WatchOptions{}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		room.Apply(event)
		fmt.Println(event.Kind, room.Users, "online")
		for _, left := range event.Leaves {
			fmt.Println(left.User, left.Reason)
		}

		// Something happens, so that there is something to see.
		switch {
		case room.Users == 1:
			err = c.Remove(ctx, "lobby", "42")
		case event.Kind == client.KindSnapshot:
			_, err = c.Put(ctx, "lobby", "c1", client.Presence{User: "42"})
		default:
			return
		}
		if err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// snapshot 0 online
	// diff 1 online
	// diff 0 online
	// 42 removed
}

// What the server refuses says why, for programs and for people.
func ExampleProblem() {
	c, stop := serve()
	defer stop()

	_, err := c.Put(context.Background(), "lobby", "c1", client.Presence{User: "42", TTL: time.Second})
	if problem, ok := errors.AsType[*client.Problem](err); ok {
		fmt.Println(problem.Code, problem.Status, problem.Retry)
		for _, fault := range problem.Errors {
			fmt.Println(fault.Pointer, fault.Detail)
		}
	}
	// Output:
	// invalid 422 never
	// /ttl It must be a whole number of seconds from 5 to 300.
}
