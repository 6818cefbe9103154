//go:build !linux

package main

func reexec() {}
