package consul

import "strings"

// sidecarSuffix ends the name of a sidecar's own registration.
const sidecarSuffix = "-sidecar-proxy"

// maxName bounds a service's name, in bytes: that of a host's name, for names
// arrive in :authority.
const maxName = 253

// ParseName splits the name that a watch asks for into the service's name in
// Consul and the datacentre to look in: "greeter" is looked up in the
// configured datacentre, "greeter.dc2" (from greeter.service.dc2.consul) in dc2.
// What follows the last dot is a datacentre only where isDatacenter says so;
// otherwise the dot is part of the service's name, which Consul allows. It is
// false for what cannot be a name at all: letters, digits, '-', '_' and '.'
// make one.
func ParseName(name string, isDatacenter func(string) bool) (service, datacenter string, ok bool) {
	if name == "" || len(name) > maxName {
		return "", "", false
	}
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return "", "", false
		}
	}
	// "." and ".." would be steps in a URL's path.
	if strings.Trim(name, ".") != name || strings.Contains(name, "..") {
		return "", "", false
	}

	if dot := strings.LastIndexByte(name, '.'); dot > 0 && isDatacenter(name[dot+1:]) {
		return name[:dot], name[dot+1:], true
	}

	return name, "", true
}
