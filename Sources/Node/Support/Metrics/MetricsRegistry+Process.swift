#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

#if os(Linux)
extension MetricsRegistry {
    /// Adds what every Prometheus client says about its process: CPU, memory, descriptors, start.
    public func addProcessMetrics() {
        self.counter("process_cpu_seconds_total", help: "User and system CPU time spent.") {
            ProcessFacts.cpuSeconds
        }
        self.gauge("process_resident_memory_bytes", help: "Resident memory.") {
            ProcessFacts.residentSize ?? .nan
        }
        self.gauge("process_virtual_memory_bytes", help: "Virtual memory.") {
            ProcessFacts.virtualSize ?? .nan
        }
        self.gauge("process_open_fds", help: "Open file descriptors.") {
            ProcessFacts.openDescriptorCount ?? .nan
        }
        self.gauge("process_max_fds", help: "File descriptors the process may open.") {
            ProcessFacts.descriptorCountMax ?? .nan
        }
        // Read once: it does not change, and the clocks it is computed from drift.
        let start = ProcessFacts.startTime ?? .nan
        self.gauge("process_start_time_seconds", help: "When the process started, seconds since 1970.") { start }
    }
}

/// What `/proc` and the system say of this process; `nil` where they cannot be read.
enum ProcessFacts {
    static var cpuSeconds: Double {
        let (seconds, nanoseconds) = SystemClock.read(CLOCK_PROCESS_CPUTIME_ID)
        return Double(seconds) + Double(nanoseconds) / 1e9
    }

    /// Octets.
    static var virtualSize: Double? { self.statm(field: 0) }

    /// Octets.
    static var residentSize: Double? { self.statm(field: 1) }

    static var openDescriptorCount: Double? {
        guard let directory = opendir("/proc/self/fd") else { return nil }
        defer { closedir(directory) }
        var count = 0
        while readdir(directory) != nil { count += 1 }
        // Without ".", ".." and the directory itself.
        return Double(max(0, count - 3))
    }

    static var descriptorCountMax: Double? {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return nil }
        return Double(limit.rlim_cur)
    }

    /// Seconds since 1970.
    static var startTime: Double? {
        // The command's name, in parentheses, may hold blanks and parentheses: count fields from the last one.
        guard let stat = self.read("/proc/self/stat"), let nameEnd = stat.lastIndex(of: ")") else { return nil }
        let fields = stat[stat.index(after: nameEnd)...].split(separator: " ")
        let ticksPerSecond = Double(sysconf(Int32(_SC_CLK_TCK)))
        guard fields.count > 19, let ticks = Double(fields[19]), ticksPerSecond > 0 else { return nil }
        let sinceBoot = SystemClock.read(CLOCK_BOOTTIME)
        let age = Double(sinceBoot.seconds) + Double(sinceBoot.nanoseconds) / 1e9 - ticks / ticksPerSecond
        return Double(SystemClock().milliseconds) / 1_000 - age
    }

    private static func statm(field: Int) -> Double? {
        guard let statm = self.read("/proc/self/statm") else { return nil }
        let fields = statm.split(separator: " ")
        guard field < fields.count, let pages = Double(fields[field]) else { return nil }
        return pages * Double(sysconf(Int32(_SC_PAGESIZE)))
    }

    /// At most 4096 octets.
    private static func read(_ path: String) -> String? {
        guard let file = fopen(path, "r") else { return nil }
        defer { fclose(file) }
        let octets = [UInt8](unsafeUninitializedCapacity: 4096) { buffer, count in
            count = fread(buffer.baseAddress, 1, buffer.count, file)
        }
        return octets.isEmpty ? nil : String(decoding: octets, as: UTF8.self)
    }
}
#endif
