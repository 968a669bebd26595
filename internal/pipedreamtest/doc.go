// Package pipedreamtest simulates the accounts API of Pipedream, for tests and the demo only. It keeps everything in memory,
// its tokens open nothing, and it must never replace the real service.
//
// It answers as the real API is documented to, or misbehaves if a test asks for that: see [Fault]. If the documentation has two
// forms, the less convenient one is the default, and an [Option] or a field of [Account] selects the other. Requests that
// contradict the documentation are listed by [Server.Violations].
//
// [Server.SetLinkPage] changes Connect links and the page that they lead to. The proxy, which puts an account's credential
// into a request to an app, forwards to loopback addresses only, over the real network. What each kind of request needs is
// in one table, operations. The module tools/contract compares the answers with a document of the API.
//
// All times come from time.Now, so inside a testing/synctest bubble, tokens and rate limits follow the bubble's clock. Such a test creates its [Server] inside the bubble, reaches it through [Server.Transport] and closes it
// before the bubble ends.
package pipedreamtest
