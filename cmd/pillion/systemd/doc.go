// Package systemd speaks with the service manager that started this process: it
// takes the sockets that systemd opened (socket activation), and tells it how the
// service fares (sd_notify, watchdog). Without a service manager it does nothing.
// When to say what is for others to know.
package systemd
