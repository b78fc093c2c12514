// swift-tools-version:6.1
import PackageDescription

// Protocol <- Cluster <- Node: a target may depend on its own layer and on the layers to its left, never the other
// way round; no role of Node depends on another role or on a log back end. The lists below are what enforces it.

let settings: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("ExistentialAny"),
]

let nioCore = Target.Dependency.product(name: "NIOCore", package: "swift-nio")
let nioPosix = Target.Dependency.product(name: "NIOPosix", package: "swift-nio")
let nioHTTP1 = Target.Dependency.product(name: "NIOHTTP1", package: "swift-nio")
let nioTLS = Target.Dependency.product(name: "NIOTLS", package: "swift-nio")
let nioSSL = Target.Dependency.product(name: "NIOSSL", package: "swift-nio-ssl")
let logging = Target.Dependency.product(name: "Logging", package: "swift-log")
let lifecycle = Target.Dependency.product(name: "ServiceLifecycle", package: "swift-service-lifecycle")
let unixSignals = Target.Dependency.product(name: "UnixSignals", package: "swift-service-lifecycle")
let protobuf = Target.Dependency.product(name: "SwiftProtobuf", package: "swift-protobuf")
let hummingbird = Target.Dependency.product(name: "Hummingbird", package: "hummingbird")
let httpClient = Target.Dependency.product(name: "AsyncHTTPClient", package: "async-http-client")
let argumentParser = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")
let yams = Target.Dependency.product(name: "Yams", package: "Yams")
let collections = Target.Dependency.product(name: "DequeModule", package: "swift-collections")
let grdb = Target.Dependency.product(name: "GRDB", package: "GRDB.swift")
let grdbSQLite = Target.Dependency.product(name: "GRDBSQLite", package: "GRDB.swift")

func library(_ name: String, _ path: String, _ dependencies: [Target.Dependency] = []) -> Target {
    .target(name: name, dependencies: dependencies, path: "Sources/\(path)", swiftSettings: settings)
}

func tests(_ name: String, _ path: String, _ dependencies: [Target.Dependency], resources: [Resource] = []) -> Target {
    .testTarget(
        name: name,
        dependencies: dependencies,
        path: "Tests/\(path)",
        resources: resources,
        swiftSettings: settings
    )
}

let package = Package(
    name: "posthorn",
    products: [
        .executable(name: "posthorn", targets: ["posthorn"])
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
        .package(url: "https://github.com/apple/swift-nio-ssl", from: "2.37.6"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-protobuf", from: "1.39.0"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
        .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.1"),
        .package(url: "https://github.com/swift-server/async-http-client", from: "1.34.0"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
        .package(url: "https://github.com/groue/GRDB.swift", from: "7.10.0"),
    ],
    targets: [
        // Protocol: what mail is. Pure: no sockets, clocks, tasks or randomness.
        .systemLibrary(
            name: "COpenSSL",
            path: "Sources/Protocol/COpenSSL",
            pkgConfig: "openssl",
            providers: [.apt(["libssl-dev"])]
        ),
        library("Digests", "Protocol/Digests", ["COpenSSL"]),
        library("Mail", "Protocol/Mail"),
        library("SMTP", "Protocol/SMTP", ["Mail", "Digests"]),
        library("DNS", "Protocol/DNS", ["Mail"]),
        library("TransportPolicy", "Protocol/TransportPolicy"),
        library("Reports", "Protocol/Reports", ["Mail"]),

        // Cluster: what nodes share.
        library("ClusterLog", "Cluster/Log", [nioCore, collections, "Digests"]),
        .target(
            name: "Records",
            dependencies: ["Mail", "ClusterLog", nioCore, protobuf],
            path: "Sources/Cluster/Records",
            exclude: ["envelope.proto"],
            swiftSettings: settings
        ),
        .systemLibrary(
            name: "CRdKafka",
            path: "Sources/Cluster/CRdKafka",
            providers: [.apt(["librdkafka-dev"])]
        ),
        library("KafkaLog", "Cluster/KafkaLog", ["ClusterLog", "CRdKafka", nioCore, logging, collections]),
        library("EmbeddedLog", "Cluster/EmbeddedLog", ["ClusterLog", nioCore, logging, grdb, grdbSQLite]),

        // Node: what a node does.
        .systemLibrary(
            // No pkgConfig: Debian's file requires libevent's, which is not needed to link.
            name: "CUnbound",
            path: "Sources/Node/CUnbound",
            providers: [.apt(["libunbound-dev"])]
        ),
        library("NodeSupport", "Node/Support", ["TransportPolicy", nioCore, logging]),
        library("Resolver", "Node/Resolver", ["DNS", "Mail", "CUnbound", logging]),
        library(
            "Ingress",
            "Node/Ingress",
            [
                "Mail", "SMTP", "Records", "ClusterLog", "NodeSupport", nioCore, nioPosix, nioSSL, nioTLS, lifecycle,
                logging,
            ]
        ),
        library(
            "Delivery",
            "Node/Delivery",
            [
                "Mail", "SMTP", "DNS", "Digests", "COpenSSL", "Records", "ClusterLog", "NodeSupport", "Resolver",
                nioCore, nioPosix, nioSSL, nioTLS, lifecycle, logging, collections,
            ]
        ),
        library(
            "Bounce",
            "Node/Bounce",
            ["Mail", "Reports", "Records", "ClusterLog", "NodeSupport", nioCore, lifecycle, logging]
        ),
        library(
            // Not Metrics, which is a dependency's module, nor MetricsService, which is its type.
            "MetricsRole",
            "Node/Metrics",
            [
                "Mail", "Records", "ClusterLog", "NodeSupport", nioCore, nioHTTP1, httpClient, lifecycle, logging,
                collections,
            ]
        ),
        library(
            "Admin",
            "Node/Admin",
            ["NodeSupport", "ClusterLog", "Records", "Mail", hummingbird, lifecycle, logging, nioCore]
        ),
        .executableTarget(
            name: "posthorn",
            dependencies: [
                "Mail", "SMTP", "DNS", "Records", "ClusterLog", "EmbeddedLog", "KafkaLog", "NodeSupport", "Resolver",
                "Ingress", "Delivery", "Bounce", "MetricsRole", "Admin", "Digests", nioCore, nioPosix, nioSSL,
                lifecycle, unixSignals, logging, argumentParser, yams,
            ],
            path: "Sources/Node/posthorn",
            swiftSettings: settings
        ),

        // Tests mirror the sources.
        .target(
            // The envelope's next version, to show that nodes of two versions work side by side.
            name: "NextSchema",
            dependencies: [protobuf],
            path: "Tests/Support/NextSchema",
            exclude: ["next-envelope.proto"],
            swiftSettings: settings
        ),
        tests("MailTests", "MailTests", ["Mail"]),
        tests("SMTPTests", "SMTPTests", ["SMTP", "Mail", "Digests"]),
        tests("DNSTests", "DNSTests", ["DNS", "Mail"]),
        tests("TransportPolicyTests", "TransportPolicyTests", ["TransportPolicy"]),
        tests("ReportsTests", "ReportsTests", ["Reports", "Mail"]),
        tests(
            "LogConformance",
            "LogConformance",
            ["ClusterLog", "EmbeddedLog", "KafkaLog", "CRdKafka", nioCore, logging]
        ),
        .target(
            name: "TestSupport",
            dependencies: ["ClusterLog", "Mail"],
            path: "Tests/Support",
            exclude: ["NextSchema"],
            swiftSettings: settings
        ),
        tests("RecordsTests", "RecordsTests", ["Records", "NextSchema", "ClusterLog", "Mail", "TestSupport", nioCore]),
        tests(
            "Simulation",
            "Simulation",
            [
                "Delivery", "SMTP", "Mail", "Records", "ClusterLog", "NodeSupport", "TestSupport", nioCore,
            ]
        ),
        tests("ResolverTests", "ResolverTests", ["Resolver", "DNS", "Mail", logging]),
        tests(
            "IngressTests",
            "IngressTests",
            ["Ingress", "SMTP", "Mail", "Records", "ClusterLog", "NodeSupport", nioCore, nioPosix, logging]
        ),
        tests(
            "DeliveryTests",
            "DeliveryTests",
            [
                "Delivery", "SMTP", "Mail", "DNS", "Resolver", "Records", "NextSchema", "ClusterLog", "NodeSupport",
                nioCore,
                nioPosix, nioSSL, collections, logging,
            ]
        ),
        tests(
            "BounceTests",
            "BounceTests",
            ["Bounce", "NodeSupport", "Records", "ClusterLog", "Mail", nioCore, lifecycle, logging]
        ),
        tests(
            "MetricsServiceTests",
            "MetricsTests",
            [
                "MetricsRole", "Admin", "NodeSupport", "Records", "ClusterLog", "Mail", nioCore, lifecycle, logging,
            ]
        ),
        tests(
            "SupportTests",
            "SupportTests",
            ["NodeSupport", "Admin", "ClusterLog", "Records", "Mail", nioCore, nioPosix, logging]
        ),
        tests(
            "NodeTests",
            "NodeTests",
            ["posthorn", "NodeSupport", "ClusterLog", "KafkaLog", "CRdKafka", "Records", logging]
        ),
        tests(
            // Every parser, fed what nobody should send.
            "Fuzz",
            "Fuzz",
            [
                "Mail", "SMTP", "DNS", "ClusterLog", "Records", "EmbeddedLog", "NodeSupport", "Ingress", "Delivery",
                "Admin",
                "posthorn", nioCore, nioPosix, logging,
            ]
        ),
    ]
)
