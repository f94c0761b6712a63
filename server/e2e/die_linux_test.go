package e2e

import "syscall"

// dieWithTest makes the kernel end a child when the test binary is killed, which leaves no time for Cleanup.
func dieWithTest(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
