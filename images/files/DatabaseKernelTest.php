<?php

declare(strict_types=1);

use PHPUnit\Framework\TestCase;

/**
 * Two tests that need the database service of the documented Drupal pipeline.
 *
 * @group KernelTests
 */
final class DatabaseKernelTest extends TestCase
{
    private PDO $database;

    protected function setUp(): void
    {
        $url = parse_url(getenv('SIMPLETEST_DB') ?: 'mysql://user:password@db/drupal');
        $source = sprintf('mysql:host=%s;port=%d;dbname=%s', $url['host'], $url['port'] ?? 3306, ltrim($url['path'], '/'));
        $this->database = new PDO($source, $url['user'], $url['pass'], [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
    }

    public function testValueIsReadBack(): void
    {
        $this->database->exec('CREATE TEMPORARY TABLE note (id INT PRIMARY KEY, text VARCHAR(40))');
        $this->database->prepare('INSERT INTO note VALUES (1, ?)')->execute(['hello']);
        $this->assertSame('hello', $this->database->query('SELECT text FROM note WHERE id = 1')->fetchColumn());
    }

    public function testServerIsMariaDb(): void
    {
        $this->assertStringContainsString('MariaDB', $this->database->query('SELECT VERSION()')->fetchColumn());
    }
}
