/// Columns that line up.
struct TextTable {
    var header: [String]
    var rows: [[String]] = []
    /// Columns that hold numbers, aligned to the right.
    var numeric: Set<Int> = []

    var text: String {
        let widths = self.header.indices.map { column in
            ([self.header] + self.rows).map { $0.indices.contains(column) ? $0[column].count : 0 }.max() ?? 0
        }
        return ([self.header] + self.rows)
            .map { row in
                let cells = row.enumerated()
                    .map { column, cell in
                        let padding = String(repeating: " ", count: max(0, widths[column] - cell.count))
                        return self.numeric.contains(column) ? padding + cell : cell + padding
                    }
                return String(cells.joined(separator: "  ").trimmingSpacesAtEnd())
            }
            .joined(separator: "\n")
    }
}

extension String {
    fileprivate func trimmingSpacesAtEnd() -> Substring {
        var result = self[...]
        while result.last == " " { result = result.dropLast() }
        return result
    }
}

/// Quantities as people read them.
enum Quantity {
    static func size(_ octets: Int) -> String {
        var value = Double(octets)
        var unit = 0
        let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
        while value >= 1024, unit < units.count - 1 {
            value /= 1024
            unit += 1
        }
        let rounded = (value * 10).rounded() / 10
        return unit == 0 || rounded >= 100 ? "\(Int(rounded)) \(units[unit])" : "\(rounded) \(units[unit])"
    }

    /// How long ago, or how long until, in its two largest units.
    static func span(milliseconds: Int64) -> String {
        let seconds = (milliseconds.magnitude + 500) / 1000
        switch seconds {
        case ..<60: return "\(seconds)s"
        case ..<3600: return "\(seconds / 60)m\(seconds % 60)s"
        case ..<86400: return "\(seconds / 3600)h\(seconds % 3600 / 60)m"
        default: return "\(seconds / 86400)d\(seconds % 86400 / 3600)h"
        }
    }
}
