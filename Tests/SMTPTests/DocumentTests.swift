import Foundation
import Testing

/// The documents that say which test shows what are read by people who trust them: what they name must be there.
@Suite("Tables of tests in the documents")
struct DocumentTests {
    private static let root = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    /// Every test file by its name, without the ending when it is Swift's.
    private static let tests: [String: String] = {
        var found: [String: String] = [:]
        let paths = FileManager.default.enumerator(atPath: root.appendingPathComponent("Tests").path)
        while let path = paths?.nextObject() as? String {
            guard path.hasSuffix(".swift") || path.hasSuffix(".py") else { continue }
            let name = (path as NSString).lastPathComponent
            let text = try? String(contentsOf: root.appendingPathComponent("Tests/\(path)"), encoding: .utf8)
            found[name.hasSuffix(".swift") ? String(name.dropLast(6)) : name, default: ""] += text ?? ""
        }
        return found
    }()

    private static func document(_ name: String) throws -> String {
        try String(contentsOf: self.root.appendingPathComponent("ops/docs/\(name)"), encoding: .utf8)
    }

    @Test("Every test that a document names exists", arguments: ["rfc5321.md", "parsers.md"])
    func namesTests(name: String) throws {
        let text = try Self.document(name)
        let citations = text.matches(of: /`([A-Za-z0-9_]+Tests|test_[a-z_]+\.py)`( "([^"]+)")?/)
        #expect(citations.count > 40)
        for citation in citations {
            let file = try #require(Self.tests[String(citation.1)], "\(citation.1)")
            guard let quoted = citation.3 else { continue }
            #expect(file.contains(quoted), "\(citation.1): \(quoted)")
        }
    }

    @Test("Every row of a requirement names a test, and every requirement that is tested has a row")
    func namesRequirements() throws {
        let text = try Self.document("rfc5321.md")
        for line in text.split(separator: "\n")
        where line.hasPrefix("| ") && !line.hasPrefix("| § ") && !line.hasPrefix("| ---") {
            #expect(line.contains(/`[A-Za-z0-9_.]+` "/), "\(line)")
        }
        for must in RFC5321MustTests.musts {
            #expect(text.contains("\"\(must.requirement)\""), "\(must)")
        }
    }

    @Test("Every source file that the table of parsers names exists, and has its row once")
    func namesSources() throws {
        let sources = try Self.document("parsers.md").matches(of: /`([A-Za-z]+\/[A-Za-z+\/]+)`/).map { String($0.1) }
        #expect(sources.count > 30 && Set(sources).count == sources.count)
        let layers = ["Protocol", "Cluster", "Node"]
        for source in sources {
            let exists = layers.contains { layer in
                let path = Self.root.appendingPathComponent("Sources/\(layer)/\(source).swift").path
                return FileManager.default.fileExists(atPath: path)
            }
            #expect(exists, "\(source)")
        }
    }

    @Test("Every module has a page that says what it guarantees, and what it does not")
    func describesModules() throws {
        let manifest = try String(contentsOf: Self.root.appendingPathComponent("Package.swift"), encoding: .utf8)
        var modules = manifest.matches(of: /library\(\s*(?:\/\/[^\n]*\n\s*)*"(\w+)",\s*"([^"]+)"/)
            .map { (name: String($0.1), path: "Sources/\($0.2)") }
        modules += manifest.matches(of: /arget\(\s*name: "(\w+)",[^)]*?path: "(Sources[^"]+)"/)
            .map { (name: String($0.1), path: String($0.2)) }
        #expect(modules.count > 14)
        for module in modules {
            let page = Self.root.appendingPathComponent("\(module.path)/Documentation.docc/\(module.name).md")
            let text = try? String(contentsOf: page, encoding: .utf8)
            #expect(text?.hasPrefix("# ``\(module.name)``\n") == true, "\(module.name)")
            #expect(text?.contains("## What it guarantees") == true && text?.contains("## What it does not") == true)
        }
    }
}
